"""Records of a split as samples: image-text pairs to train on, gallery images and query captions to evaluate on.

A training row is one caption with its image. What is drawn for a row depends on (seed, epoch, row) alone, so neither
the number of loader processes nor their order, nor a resumed run, changes it. L tokens of a text, H W pixels.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import BertTokenizer

from dataset.attributes import Chunks, chunk_ids, find_chunks
from dataset.batches import CaptionBatch, ImageBatch, TrainBatch, collate
from dataset.captions import clean_caption
from dataset.images import BadImage, CachedImages, Images, OnBadImage, find_readable, open_images
from dataset.records import Record
from dataset.texts import Texts
from dataset.tokenizer import encode_all
from utils.errors import UserError

logger = logging.getLogger(__name__)


class EncodedCaptions(NamedTuple):
    """Tokens of many captions, one behind the other: caption c has the places start[c]..start[c + 1]."""

    input_ids: np.ndarray  # (all tokens,) int32
    attribute_ids: np.ndarray  # (all tokens,) int16
    start: np.ndarray  # (captions + 1,) int64

    def tokens(self, caption: int) -> Texts:
        """Three tensors (L,) int64."""
        place = slice(self.start[caption], self.start[caption + 1])
        input_ids = torch.from_numpy(self.input_ids[place].astype(np.int64))
        attribute_ids = torch.from_numpy(self.attribute_ids[place].astype(np.int64))
        return Texts(input_ids, torch.ones_like(input_ids), attribute_ids)

    def batch(self, captions: np.ndarray) -> Texts:
        """What collate makes of several captions (B,)."""
        start, length = self.start[captions], self.start[captions + 1] - self.start[captions]
        column = np.arange(length.max())
        is_token = column < length[:, None]  # (B, L)
        place = (start[:, None] + column)[is_token]
        input_ids, attribute_ids = np.zeros((2, *is_token.shape), np.int64)
        input_ids[is_token], attribute_ids[is_token] = self.input_ids[place], self.attribute_ids[place]
        ids, mask, chunks = map(torch.from_numpy, (input_ids, is_token.astype(np.int64), attribute_ids))
        return Texts(ids, mask, chunks)


def encode_captions(
    captions: Sequence[str], chunks: Sequence[Chunks], tokenizer: BertTokenizer, max_tokens: int
) -> EncodedCaptions:
    """Word pieces and chunk numbers of cleaned captions; arrays, since a list per caption takes many times more."""
    input_ids, attribute_ids, lengths = [], [], [0]
    for encoded, own_chunks in zip(encode_all(tokenizer, captions, max_tokens), chunks, strict=True):
        input_ids.append(np.array(encoded.ids, dtype=np.int32))
        attribute_ids.append(np.array(chunk_ids(encoded.offsets, own_chunks), dtype=np.int16))
        lengths.append(len(encoded.ids))
    return EncodedCaptions(np.concatenate(input_ids), np.concatenate(attribute_ids), np.cumsum(lengths))


class TrainRows(NamedTuple):
    """What each training row consists of; all (rows,) int64, rows of a person one behind the other."""

    image: np.ndarray  # number of the image
    caption: np.ndarray  # number of the cleaned caption; equal texts have equal numbers
    person: np.ndarray  # 0..people-1


class Draw(NamedTuple):
    """What chance decides about a row in an epoch."""

    flip_1: bool
    flip_2: bool
    other: int  # number of the caption that is text_2


class TrainSet(Dataset[TrainBatch]):
    """Training pairs, asked for by (epoch, row): so the loader processes need not be told about a new epoch."""

    def __init__(
        self,
        images: Images,
        captions: EncodedCaptions,
        rows: TrainRows,
        *,
        weak_positive_probability: float,
        seed: int,
        on_bad_image: OnBadImage,
    ) -> None:
        if len(rows.person) == 0:
            raise UserError("no training pair is left: there are no records, or none of their images can be read")
        self.images = images
        self.captions = captions
        self.rows = rows
        self.weak_positive_probability = weak_positive_probability
        self.seed = seed
        self.on_bad_image = on_bad_image
        self.num_people = int(rows.person.max()) + 1
        self._first_row = np.searchsorted(rows.person, np.arange(self.num_people + 1))  # of each person
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return len(self.rows.person)

    def __getitem__(self, place: tuple[int, int]) -> TrainBatch:
        """Sample of (epoch, row). Where images are not cached and bad ones skipped, the next readable row's instead.

        Raises: BadImage if the image cannot be read and on_bad_image is "error", or if no image can be read at all.
        """
        epoch, row = place
        for step in range(len(self)):
            try:
                return self._sample(epoch, (row + step) % len(self))
            except BadImage as error:
                if self.on_bad_image == "error":
                    raise
                self._warn_once(str(error))
        raise BadImage("no image of the training set can be read")

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> TrainBatch:
        """What collate makes of the samples of the places; loaders ask for this. Faster where the images are cached."""
        if not isinstance(self.images, CachedImages):
            return collate([self[place] for place in places])
        draws = [self._draw(epoch, row) for epoch, row in places]
        rows = np.array([row for _, row in places])
        images = self.rows.image[rows]
        own, other = self.rows.caption[rows], np.array([draw.other for draw in draws])
        return TrainBatch(
            image_1=self.images.batch(images, [draw.flip_1 for draw in draws]),
            image_2=self.images.batch(images, [draw.flip_2 for draw in draws]),
            text_1=self.captions.batch(own),
            text_2=self.captions.batch(other),
            person_id=torch.from_numpy(self.rows.person[rows]),
            replaced=torch.from_numpy((own != other).astype(np.int64)),
        )

    def _sample(self, epoch: int, row: int) -> TrainBatch:
        own, (flip_1, flip_2, other) = self.rows.caption[row], self._draw(epoch, row)
        image = self.images[int(self.rows.image[row])]  # (3, H, W)
        flipped = image.flip(-1) if flip_1 or flip_2 else image
        return TrainBatch(
            image_1=flipped if flip_1 else image,
            image_2=flipped if flip_2 else image,
            text_1=self.captions.tokens(own),
            text_2=self.captions.tokens(other),
            person_id=torch.tensor(int(self.rows.person[row])),
            replaced=torch.tensor(int(own != other)),
        )

    def _draw(self, epoch: int, row: int) -> Draw:
        random = np.random.default_rng([self.seed, epoch, row])
        flip_1, flip_2, replace = random.random(3) < (0.5, 0.5, self.weak_positive_probability)
        other = self._any_caption_of_person(self.rows.person[row], random) if replace else self.rows.caption[row]
        return Draw(bool(flip_1), bool(flip_2), int(other))

    def _any_caption_of_person(self, person: int, random: np.random.Generator) -> int:
        """Every caption as often as it is annotated, the own one included (as in RaSa, arXiv:2305.13653)."""
        return self.rows.caption[random.integers(self._first_row[person], self._first_row[person + 1])]

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning("the next row is drawn instead: %s", message)


class GallerySet(Dataset[ImageBatch]):
    """Images to be ranked; attributes person_id (N,) int64 and paths (N), relative to imgs/."""

    def __init__(self, images: Images, numbers: Sequence[int], person_id: Sequence[int], paths: Sequence[str]) -> None:
        self.images = images
        self.numbers = list(numbers)  # of the gallery's images among `images`
        self.person_id = torch.tensor(person_id, dtype=torch.int64)
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, image_index: int) -> ImageBatch:
        """(3, H, W) uint8 and ()."""
        return ImageBatch(self.images[self.numbers[image_index]], self.person_id[image_index])


class CaptionSet(Dataset[CaptionBatch]):
    """Query captions; attributes person_id (N,) int64 and texts (N), cleaned."""

    def __init__(self, captions: EncodedCaptions, person_id: Sequence[int], texts: Sequence[str]) -> None:
        self.captions = captions
        self.person_id = torch.tensor(person_id, dtype=torch.int64)
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, caption_index: int) -> CaptionBatch:
        """(L,) tokens, without attribute chunks, and ()."""
        return CaptionBatch(self.captions.tokens(caption_index), self.person_id[caption_index])


class EvalSets(NamedTuple):
    gallery: GallerySet
    captions: CaptionSet


def load_train_set(
    root: Path,
    records: Sequence[Record],
    *,
    tokenizer: BertTokenizer,
    image_size: tuple[int, int],
    max_words: int,
    weak_positive_probability: float,
    cache: bool,
    on_bad_image: OnBadImage,
    seed: int,
    workers: int,
) -> TrainSet:
    """Everything done once before training: attribute chunks, tokens, image cache. Labels follow the person ids' order.

    Args:
        root: folder with imgs/; what is computed is kept in root/cache.
        image_size: height and width in pixels.
        max_words: words kept of a caption, and tokens kept of those, [CLS] included.
        workers: processes that decode images for the cache; 0 = this one.
    Raises: BadImage (on_bad_image "error"), UserError if root/cache cannot be written or no pair is left.
    """
    records = sorted(records, key=lambda record: record.person_id)
    opened = open_images(
        _image_paths(root, records),
        image_size,
        cache_dir=root / "cache" if cache else None,
        split="train",
        on_bad_image=on_bad_image,
        workers=workers,
    )
    label = {person_id: label for label, person_id in enumerate(sorted({record.person_id for record in records}))}
    numbers: dict[str, int] = {}  # of the cleaned captions
    rows = []
    for image in opened.readable:
        for text in records[image].captions:
            caption = clean_caption(text, max_words)
            rows.append((image, numbers.setdefault(caption, len(numbers)), label[records[image].person_id]))
    if not rows:
        raise UserError(f"no training pair in {root}: there are no records, or none of their images can be read")
    captions = encode_captions(list(numbers), find_chunks(list(numbers), root / "cache"), tokenizer, max_words)
    return TrainSet(
        opened.images,
        captions,
        TrainRows(*np.array(rows, dtype=np.int64).T.copy()),
        weak_positive_probability=weak_positive_probability,
        seed=seed,
        on_bad_image=on_bad_image,
    )


def load_eval_sets(
    root: Path,
    records: Sequence[Record],
    *,
    split: str,
    tokenizer: BertTokenizer,
    image_size: tuple[int, int],
    max_words: int,
    cache: bool,
    on_bad_image: OnBadImage,
    workers: int,
) -> EvalSets:
    """Gallery and captions of a split, in the order of the records; arguments and errors as for load_train_set.

    Where bad images are skipped, they are found now, cached or not, and left out together with their captions.
    """
    paths = _image_paths(root, records)
    cache_dir = root / "cache" if cache else None
    images, readable = open_images(
        paths, image_size, cache_dir=cache_dir, split=split, on_bad_image=on_bad_image, workers=workers
    )
    if cache_dir is None and on_bad_image == "skip":
        readable = find_readable(paths, image_size, on_bad_image=on_bad_image, workers=workers)
    kept = [records[index] for index in readable]
    texts = [(record.person_id, clean_caption(text, max_words)) for record in kept for text in record.captions]
    if not texts:
        raise UserError(f"nothing to evaluate in {root}, {split}: no records, or none of their images can be read")
    person_id, cleaned = [pair[0] for pair in texts], [pair[1] for pair in texts]
    encoded = encode_captions(cleaned, [[]] * len(cleaned), tokenizer, max_words)
    gallery = GallerySet(images, readable, [record.person_id for record in kept], [record.file_path for record in kept])
    return EvalSets(gallery, CaptionSet(encoded, person_id, cleaned))


def _image_paths(root: Path, records: Sequence[Record]) -> list[Path]:
    return [root / "imgs" / record.file_path for record in records]
