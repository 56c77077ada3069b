"""`Gallery`: an index and its model, and the queries that they answer."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset.captions import clean_caption
from gallery.answers import Answer, CannotAnswer, Mode, WordHeat
from gallery.description import describe
from gallery.encoding.checkpoints import checked_checkpoint
from gallery.encoding.chunks import QueryChunks, chunks_of, no_chunks
from gallery.encoding.encoder import Encoder, Sentence, best_device, pixels_of
from gallery.encoding.pictures import IndexedImage, decode
from gallery.footage.origin import Origin
from gallery.search.feedback import Marks, marked_candidates, marks_of
from gallery.search.filters import Filter
from gallery.search.heat import word_heats
from gallery.search.live import LiveIndex, View
from gallery.search.nearest import key_of
from gallery.search.negation import pushed, read_negations
from gallery.search.ranking import Ranked, confidence_of, hits_of
from gallery.search.second_stage import match_candidates
from gallery.search.tracks import Track, track_around
from gallery.search.words import trust_in, unknown_words
from gallery.store.sources import SourceInfo
from models.attention_maps import word_attention
from models.evidence_maps import chunk_evidence, of_tokens
from utils.config import stored_config


class Gallery:
    """Pictures that can be searched; `Gallery.open` makes one.

    Threads may share a gallery, but its model runs one call at a time. If another process changes the index, the next
    query sees it.
    """

    def __init__(self, live: LiveIndex, encoder: Encoder) -> None:
        self._live, self._encoder = live, encoder
        self._rerank_top_k = encoder.config.eval.rerank_top_k
        # Chunks are scored only if the head was trained on them, and if it is used at all.
        self._scores_chunks = encoder.config.losses.weights.get("attribute", 0) > 0 and self._rerank_top_k > 0
        self._model = threading.Lock()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        checkpoint: str | Path | None = None,
        device: str | torch.device | None = None,
        engine: str | None = None,
    ) -> "Gallery":
        """Open an index that `search.py index` made.

        Args:
            checkpoint: where the model is now, if it was moved. It must hold the same weights.
            device: None = a GPU if there is one, else the CPU.
            engine: URL of a Milvus server that holds the vectors; None = the engine that the index was made with.
        Raises: UserError if the index or the checkpoint is missing or damaged, or if the weights differ.
        """
        live = LiveIndex(Path(path), engine)
        manifest = live.now().store.manifest
        given = Path(checkpoint) if checkpoint is not None else None
        config = stored_config(manifest.config, str(path))
        where = torch.device(device) if device is not None else best_device()
        return cls(live, Encoder(checked_checkpoint(manifest, given), config, where))

    def __len__(self) -> int:
        return len(self._live.now().store)

    def query(
        self,
        sentence: str,
        *,
        top: int = 20,
        fast: bool = False,
        where: Filter | None = None,
        group: bool = True,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
    ) -> Answer:
        """The images that fit a sentence best.

        What the sentence denies ("without a hat") is cut out of it, and images that are like it come later.

        Args:
            sentence: only its first dataset.max_words words count.
            top: largest number of hits.
            fast: order by similarity alone. Otherwise the matching head orders the eval.rerank_top_k most similar
                images (or `top`, if that is more), and each hit says how well it fits each chunk of the sentence. If
                eval.rerank_top_k is 0, every answer is a fast one.
            where: only the images that pass take part.
            group: one hit for all crops of a track and for near-identical images, namely the one most similar to the
                sentence; `top` and eval.rerank_top_k then count such groups. Otherwise each image is a hit of its own.
            liked, disliked: ids of images that show the person, or somebody else. They move the query, the disliked
                ones leave the answer with their tracks, and the order is that of a fast answer.
        Raises: CannotAnswer if the sentence is empty, top is not positive, no source passes the filter, or an image is
            both liked and disliked; UnknownImage (a KeyError) if there is no such image; UserError as `Gallery.open`.
        """
        begin = time.perf_counter()
        view, where = self._view(top, where)
        marks, reading = marks_of(view, liked, disliked), read_negations(sentence)
        with self._model:
            encoded = self._encoder.sentence(reading.kept)
            vector = pushed(encoded.vector, [self._encoder.sentence(each.probe).vector for each in reading.negated])
        mode: Mode = "fast" if fast or not self._rerank_top_k or any(marks) else "exact"
        count = max(top, self._rerank_top_k) if mode == "exact" else top
        ranked = marked_candidates(view, vector, count, marks, where=where, group=group)
        if mode == "exact":
            ranked = self._matched(view, encoded, ranked)
        max_words = self._encoder.config.dataset.max_words
        text = " ".join([encoded.text, *(clean_caption(each.text, max_words) for each in reading.negated)])
        unknown = self._unknown_words(view, text, encoded)
        best = None
        if ranked and not any(marks):  # a similarity to what the sentence affirms, as in the calibration
            best = (
                ranked[0].score if mode == "exact" else float(view.store.vector(ranked[0].found.key) @ encoded.vector)
            )
        confidence, nothing = confidence_of(view, best, mode, trust_in(text, unknown))
        return Answer(
            sentence,
            tuple(hits_of(view, ranked[:top], where=where, group=group)),
            nothing,
            confidence,
            time.perf_counter() - begin,
            mode,
            encoded.num_pieces,
            tuple(encoded.unknown_pieces),
            unknown,
            tuple(each.text for each in reading.negated),
        )

    def query_image(
        self,
        image: Image.Image,
        *,
        top: int = 20,
        where: Filter | None = None,
        group: bool = True,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
    ) -> Answer:
        """The images of people who look most like the one in a picture, by the similarity of the image vectors.

        image: an open picture; its EXIF orientation is respected. Others: as for `query`.
        Raises: as `query`.
        """
        begin = time.perf_counter()
        view, where = self._view(top, where)
        marks = marks_of(view, liked, disliked)
        pixels = pixels_of(image, self._encoder.image_size)
        with self._model:
            vector = self._encoder.images(pixels[None]).vectors[0]
        return _alike(view, vector, top, marks, where, group, begin)

    def query_similar(
        self,
        image_id: str,
        *,
        top: int = 20,
        where: Filter | None = None,
        group: bool = True,
        liked: Sequence[str] = (),
        disliked: Sequence[str] = (),
    ) -> Answer:
        """The same for an indexed image, by its vector in the index. Its own hit comes first, if it passes the filter.

        Raises: UnknownImage (a KeyError) if there is no such image; otherwise as `query_image`.
        """
        begin = time.perf_counter()
        view, where = self._view(top, where)
        marks = marks_of(view, liked, disliked)
        return _alike(view, view.store.vector(key_of(view, image_id)), top, marks, where, group, begin)

    def explain(self, sentence: str, image_id: str) -> list[WordHeat]:
        """Where in an indexed image the model sees each word of a sentence, except for what the sentence denies.

        For a word in a chunk that the model scores, the patches that tell the chunk's words; for others, its attention.

        Raises: UnknownImage (a KeyError) if there is no such image; CannotAnswer if the sentence is empty;
            PictureChanged if its file has changed since; UserError if the model has no attention maps of words.
        """
        pixels = pixels_of(decode(self.image(image_id).read()), self._encoder.image_size)
        model, device = self._encoder.model, self._encoder.device
        with self._model:
            encoded = self._encoder.sentence(read_negations(sentence).kept)
            chunks = self._chunks(encoded)
            image = model.normalize(pixels[None].to(device))
            ids, chunk_ids = (torch.tensor(row, device=device) for row in (encoded.encoded.ids, chunks.ids))
            heat = word_attention(model, image, ids).float()
            if self._encoder.mask_id is not None:
                maps = chunk_evidence(model, image, ids, chunk_ids, mask_id=self._encoder.mask_id)
                heat = torch.where(chunk_ids[:, None, None] > 0, of_tokens(maps.float(), chunk_ids), heat)
        return word_heats(encoded, chunks, heat.cpu().numpy())

    def image(self, image_id: str) -> IndexedImage:
        """An indexed image. Raises: UnknownImage (a KeyError) if no image has this id."""
        view = self._live.now()
        return IndexedImage.of(Path(view.store.manifest.root), view.store.image(key_of(view, image_id)))

    def image_path(self, image_id: str) -> Path:
        """The file of an indexed image. Raises: UnknownImage (a KeyError) if no image has this id."""
        return self.image(image_id).path

    def origin(self, image_id: str) -> Origin | None:
        """Where an indexed image was cut from; None = a plain picture. Raises: UnknownImage (a KeyError)."""
        view = self._live.now()
        return view.store.origin(key_of(view, image_id))

    def track(self, image_id: str, *, limit: int = 100) -> Track | None:
        """The crops around an indexed image in its track, at most `limit`; None = a plain picture.

        Raises: UnknownImage (a KeyError).
        """
        view = self._live.now()
        return track_around(view, key_of(view, image_id), limit)

    def sources(self) -> list[SourceInfo]:
        """The pictures and videos that the images were cut from, by name; empty for an index of plain pictures."""
        return self._live.now().store.sources

    def describe(self) -> dict[str, Any]:
        """The index, its model and its engine, as values for JSON."""
        return describe(self._live.now(), self._encoder.config, self._encoder.device)

    def close(self) -> None:
        """Release the engine."""
        self._live.close()

    def _chunks(self, sentence: Sentence) -> QueryChunks:
        return chunks_of(sentence.text, sentence.encoded) if self._scores_chunks else no_chunks(sentence.encoded)

    def _unknown_words(self, view: View, text: str, sentence: Sentence) -> tuple[str, ...]:
        learned = view.calibration.learned_words if view.calibration else ()
        return unknown_words(text, unknown_pieces=sentence.unknown_pieces, learned=learned)

    def _view(self, top: int, where: Filter | None) -> tuple[View, Filter | None]:
        """The current view, and the filter if it leaves out anything. Raises: CannotAnswer."""
        if top < 1:
            raise CannotAnswer(f"top must be at least 1, got {top}")
        view = self._live.now()
        if not where:
            return view, None
        return view, where.for_index(view.store)

    def _matched(self, view: View, sentence: Sentence, ranked: list[Ranked]) -> list[Ranked]:
        """Candidates ordered by the matching head, with the scores of their chunks.

        The similarity that may count as well is to what the sentence affirms, as in the calibration.
        """
        chunks, found = self._chunks(sentence), {each.found.key: each.found for each in ranked}
        with self._model:
            matches = match_candidates(self._encoder, view.store, sentence, chunks, list(found))
        factor = self._encoder.config.eval.rerank_similarity / float(self._encoder.model.temperature)
        matched = [
            Ranked(found[key], match.score + factor * float(view.store.vector(key) @ sentence.vector), match.chunks)
            for key, match in matches.items()
        ]
        return sorted(matched, key=lambda each: each.score, reverse=True)


def _alike(
    view: View, vector: np.ndarray, top: int, marks: Marks, where: Filter | None, group: bool, begin: float
) -> Answer:
    """The answer to a picture's vector (E,). begin: of the query, by time.perf_counter."""
    ranked = marked_candidates(view, vector, top, marks, where=where, group=group)
    hits = hits_of(view, ranked[:top], where=where, group=group)
    return Answer("", tuple(hits), None, None, time.perf_counter() - begin, "image")
