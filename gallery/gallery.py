"""`Gallery`: an index and its model, and the queries that they answer."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gallery.answers import Answer, CannotAnswer, ChunkScore, Hit, Mode, WordHeat
from gallery.encoding.checkpoints import checked_checkpoint
from gallery.encoding.chunks import QueryChunks, chunks_of, no_chunks
from gallery.encoding.encoder import Encoder, Sentence, best_device, pixels_of
from gallery.encoding.pictures import IndexedImage, decode
from gallery.search.heat import word_heats
from gallery.search.live import LiveIndex, View
from gallery.search.second_stage import match_candidates
from gallery.store.segments import image_id as id_of
from gallery.store.store import UnknownImage
from models.attention_maps import word_attention
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

    def query(self, sentence: str, *, top: int = 20, fast: bool = False) -> Answer:
        """The images that fit a sentence best.

        Args:
            sentence: only its first dataset.max_words words count.
            top: largest number of hits.
            fast: order by similarity alone. Otherwise the matching head orders the eval.rerank_top_k most similar
                images (or `top`, if that is more), and each hit says how well it fits each chunk of the sentence. If
                eval.rerank_top_k is 0, every answer is a fast one.
        Raises: CannotAnswer if the sentence is empty or top is not positive; UserError as `Gallery.open`.
        """
        begin = time.perf_counter()
        _check_top(top)
        with self._model:
            encoded = self._encoder.sentence(sentence)
        view = self._live.now()
        mode: Mode = "fast" if fast or not self._rerank_top_k else "exact"
        if mode == "exact":
            hits = self._matched(view, encoded, _nearest(view, encoded.vector, max(top, self._rerank_top_k)))
        else:
            hits = _found(view, encoded.vector, top)
        confidence, nothing = _confidence(view, hits, mode)
        return Answer(
            sentence,
            tuple(hits[:top]),
            nothing,
            confidence,
            time.perf_counter() - begin,
            mode,
            encoded.num_pieces,
            tuple(encoded.unknown_pieces),
        )

    def query_image(self, image: Image.Image, *, top: int = 20) -> Answer:
        """The images of people who look most like the one in a picture, by the similarity of the image vectors.

        image: an open picture; its EXIF orientation is respected.
        Raises: CannotAnswer if top is not positive; UserError as `Gallery.open`.
        """
        begin = time.perf_counter()
        _check_top(top)
        pixels = pixels_of(image, self._encoder.image_size)
        with self._model:
            vector = self._encoder.images(pixels[None]).vectors[0]
        hits = tuple(_found(self._live.now(), vector, top))
        return Answer("", hits, None, None, time.perf_counter() - begin, "image")

    def query_similar(self, image_id: str, *, top: int = 20) -> Answer:
        """The same for an indexed image, by its vector in the index. Its own hit comes first.

        Raises: UnknownImage (a KeyError) if there is no such image; otherwise as `query_image`.
        """
        begin = time.perf_counter()
        _check_top(top)
        view = self._live.now()
        hits = tuple(_found(view, view.store.vector(_key_of(view, image_id)), top))
        return Answer("", hits, None, None, time.perf_counter() - begin, "image")

    def explain(self, sentence: str, image_id: str) -> list[WordHeat]:
        """Where in an indexed image the model looks for each word of a sentence.

        Raises: UnknownImage (a KeyError) if there is no such image; CannotAnswer if the sentence is empty;
            PictureChanged if its file has changed since; UserError if the model has no attention maps of words.
        """
        pixels = pixels_of(decode(self.image(image_id).read()), self._encoder.image_size)
        model, device = self._encoder.model, self._encoder.device
        with self._model:
            encoded = self._encoder.sentence(sentence)
            chunks = self._chunks(encoded)
            image = model.normalize(pixels[None].to(device))
            heat = word_attention(model, image, torch.tensor(encoded.encoded.ids, device=device))
        return word_heats(encoded, chunks, heat.float().cpu().numpy())

    def image(self, image_id: str) -> IndexedImage:
        """An indexed image. Raises: UnknownImage (a KeyError) if no image has this id."""
        view = self._live.now()
        return IndexedImage.of(Path(view.store.manifest.root), view.store.image(_key_of(view, image_id)))

    def image_path(self, image_id: str) -> Path:
        """The file of an indexed image. Raises: UnknownImage (a KeyError) if no image has this id."""
        return self.image(image_id).path

    def describe(self) -> dict[str, Any]:
        """The index, its model and its engine, as values for JSON."""
        view = self._live.now()
        manifest, config = view.store.manifest, self._encoder.config
        image, text = config.model.image_encoder, config.model.text_encoder
        image_name = image.name or f"{image.kind}, width {image.embed_dim}, {image.depth} layers"
        return {
            "images": len(view.store),
            "root": manifest.root,
            "model": f"{image_name}; {text.name}",
            "checkpoint": manifest.checkpoint.path,
            "checkpoint_sha256": manifest.checkpoint.sha256,
            "image_size": list(config.dataset.image_size),
            "embedding_width": manifest.width,
            "second_stage": f"the matching head orders the first {self._rerank_top_k}"
            if self._rerank_top_k
            else "none: eval.rerank_top_k is 0, so that exact gives the order of fast",
            "image_tokens": "kept" if manifest.token_shape else "not kept",
            "calibrated": view.calibration is not None,
            "engine": manifest.engine or "faiss",
            "device": str(self._encoder.device),
        }

    def close(self) -> None:
        """Release the engine."""
        self._live.close()

    def _chunks(self, sentence: Sentence) -> QueryChunks:
        return chunks_of(sentence.text, sentence.encoded) if self._scores_chunks else no_chunks(sentence.encoded)

    def _matched(self, view: View, sentence: Sentence, found: dict[int, float]) -> list[Hit]:
        """Hits ordered by the matching head, with the scores of their chunks. found: similarities by key."""
        chunks = self._chunks(sentence)
        with self._model:
            matches = match_candidates(self._encoder, view.store, sentence, chunks, list(found))
        hits = [_hit(view, key, match.score, found[key], match.chunks) for key, match in matches.items()]
        return sorted(hits, key=lambda hit: hit.score, reverse=True)


def _nearest(view: View, vector: np.ndarray, k: int) -> dict[int, float]:
    """Similarities of the k nearest rows by key, best first."""
    if not np.isfinite(vector).all():
        raise CannotAnswer("the model makes no finite numbers of this query, so nothing can be compared with it")
    if len(view.store) == 0:
        return {}
    found = view.engine.search(vector[None], min(k, len(view.store)))
    return dict(zip(found.key[0].tolist(), found.similarity[0].tolist(), strict=True))


def _found(view: View, vector: np.ndarray, top: int) -> list[Hit]:
    """Hits ordered by similarity."""
    return [_hit(view, key, similarity, similarity) for key, similarity in _nearest(view, vector, top).items()]


def _hit(view: View, key: int, score: float, similarity: float, chunks: tuple[ChunkScore, ...] = ()) -> Hit:
    path = view.store.image(key).path
    return Hit(id_of(path), Path(view.store.manifest.root) / path, score, similarity, chunks)


def _confidence(view: View, hits: list[Hit], mode: Mode) -> tuple[float | None, bool | None]:
    """Probability that the person is in the gallery, and whether it is below the threshold; None = not calibrated."""
    calibration = view.calibration
    order = None if calibration is None else calibration.exact if mode == "exact" else calibration.fast
    if order is None or not hits:
        return None, None
    probability = order.probability(hits[0].score)
    return probability, probability < order.threshold


def _key_of(view: View, image_id: str) -> int:
    """The key of an image id, which must be written exactly as in answers: no prefix, capitals or blanks."""
    if not re.fullmatch(r"[0-9a-f]{16}", image_id):
        raise UnknownImage(f"{image_id!r} is not an image id")
    return view.store.key_of(int(image_id, 16))


def _check_top(top: int) -> None:
    if top < 1:
        raise CannotAnswer(f"top must be at least 1, got {top}")
