"""A checkpoint as a search uses it. B images, E embedding, K image tokens, D width, L text tokens, C chunks.

It gives images and sentences their vectors, and scores pairs of them by the matching head.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from dataset.captions import clean_caption
from dataset.tokenizer import Encoded, encode, load_tokenizer
from evaluation.retrieval import RETRIEVAL_TASKS
from gallery.answers import CannotAnswer
from gallery.chunks import chunk_probabilities
from gallery.manifest import CheckpointStamp, Manifest
from gallery.pictures import upright
from models.build import build_model
from models.weights import check_complete, initialise
from training.checkpoint import load_checkpoint
from utils.config import Config, load_config, stored_config
from utils.errors import UserError
from utils.precision import autocast

BYTES_AT_A_TIME = 2**24


class EncodedImages(NamedTuple):
    """Of B images, on the CPU."""

    vectors: np.ndarray  # (B, E) float32, L2-normalised
    tokens: Tensor  # (B, K, D) as the model computed them, on its device, class token first


class Sentence(NamedTuple):
    """A query, cleaned and cut as captions are in training."""

    text: str
    encoded: Encoded
    vector: np.ndarray  # (E,) float32, L2-normalised


class Matching(NamedTuple):
    """What the matching head says of one sentence and B images, on the CPU."""

    scores: Tensor  # (B,) logits of "same person"
    chunks: Tensor  # (B, C) probabilities


class Encoder:
    """A model in evaluation mode with its tokenizer.

    Raises: UserError if the checkpoint cannot be read or does not fill the whole model.
    """

    def __init__(self, checkpoint: Path, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.tokenizer = load_tokenizer(config.model.text_encoder.name)
        model = build_model(config, tasks=RETRIEVAL_TASKS)
        check_complete(model, initialise(model, checkpoint))
        self.model = model.to(device).eval().requires_grad_(False)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.config.dataset.image_size

    @property
    def token_shape(self) -> tuple[int, int]:
        encoder = self.model.image_encoder
        return 1 + encoder.num_patches, encoder.width

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> EncodedImages:
        """pixels: (B, 3, height, width) uint8, of `image_size`."""
        with autocast(self.device, self.config.train.precision):
            features, embedding = self.model.encode_image(self.model.normalize(pixels.to(self.device)))
        return EncodedImages(embedding.float().cpu().numpy(), features.tokens)

    @torch.inference_mode()
    def sentence(self, text: str) -> Sentence:
        """Raises: CannotAnswer if nothing is left of the text after cleaning."""
        cleaned = clean_caption(text, self.config.dataset.max_words)
        if not cleaned:
            raise CannotAnswer("the query is empty: describe a person, e.g. a man with a red backpack")
        encoded = encode(self.tokenizer, cleaned, self.config.dataset.max_words)
        ids = torch.tensor([encoded.ids], device=self.device)
        with autocast(self.device, self.config.train.precision):
            embedding = self.model.encode_text(ids, torch.ones_like(ids))[1]
        return Sentence(cleaned, encoded, embedding[0].float().cpu().numpy())

    @torch.inference_mode()
    def match(self, sentence: Sentence, chunk_ids: list[int], tokens: Tensor) -> Matching:
        """chunk_ids: (L,) of `chunks_of`. tokens: (B, K, D), of any float type, on any device."""
        ids, chunks = (torch.tensor(part, device=self.device) for part in (sentence.encoded.ids, chunk_ids))
        rows = ids.expand(len(tokens), -1)
        with autocast(self.device, self.config.train.precision):
            hidden = self.model.text_encoder.cross_modal(rows, torch.ones_like(rows), tokens.to(self.device).float())
            scores = self.model.itm_head(hidden[:, 0])[:, 1]
            probabilities = chunk_probabilities(self.model.itm_head, hidden, chunks)
        return Matching(scores.float().cpu(), probabilities.cpu())


def pixels_of(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """An open picture, upright, resized as `dataset.images.read_image` does it: (3, height, width) uint8."""
    picture = torch.from_numpy(np.array(upright(image))).permute(2, 0, 1)
    resized = resize(picture, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return torch.from_numpy(np.ascontiguousarray(resized.numpy()))  # numpy reorders three channels twice as fast


def config_of(checkpoint: Path, config_path: Path | None = None) -> Config:
    """The configuration that a checkpoint was trained with: given, in the file itself, or as config.yaml beside it.

    Raises: UserError if there is none.
    """
    if config_path is not None:
        return load_config(config_path)
    beside = checkpoint.parent / "config.yaml"
    try:
        stored = load_checkpoint(checkpoint).get("config")
    except UserError:
        if not checkpoint.is_file():
            raise
        stored = None  # of another program; loading it will say what is wrong where it cannot be read
    if stored is not None:
        return stored_config(stored, str(checkpoint))
    if not beside.is_file():
        raise UserError(f"{checkpoint} does not hold its configuration: give it by --config FILE")
    return load_config(beside)


def stamp_of(checkpoint: Path, known: CheckpointStamp | None = None) -> CheckpointStamp:
    """Path, hash, size and time of a checkpoint; the hash is not computed again where size and time are the known ones.

    Raises: UserError if there is no such file.
    """
    if not checkpoint.is_file():
        raise UserError(f"checkpoint {checkpoint} does not exist; it is the best.pth of a run, say")
    status = checkpoint.stat()
    path, size, mtime_ns = str(checkpoint.resolve()), status.st_size, status.st_mtime_ns
    if known is not None and (path, size, mtime_ns) == (known.path, known.size, known.mtime_ns):
        return known
    return CheckpointStamp(path=path, sha256=_sha256(checkpoint), size=size, mtime_ns=mtime_ns)


def checked_checkpoint(manifest: Manifest, given: Path | None = None) -> Path:
    """The file with the weights that an index was made with: where it was then, unless another place is given.

    Raises: UserError if it is not there, or holds other weights.
    """
    path = given or Path(manifest.checkpoint.path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist (any more); say where it is now: --checkpoint FILE")
    if stamp_of(path, manifest.checkpoint).sha256 != manifest.checkpoint.sha256:
        raise UserError(f"checkpoint {path} is another one than this index was made with; index into a new folder")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(BYTES_AT_A_TIME):
            digest.update(part)
    return digest.hexdigest()


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
