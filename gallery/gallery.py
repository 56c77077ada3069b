"""The search itself: an index, its model, and questions to both."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset.images import read_image
from gallery.answers import Answer, ChunkScore, Hit, Mode, WordHeat
from gallery.calibration_file import calibration_from
from gallery.chunks import QueryChunks, chunks_of
from gallery.encode import Encoder, Sentence, best_device, checked_checkpoint, pixels_of
from gallery.heat import word_heats
from gallery.index import Neighbours, VectorIndex, open_index
from gallery.second_stage import match_candidates
from gallery.segments import image_id
from gallery.store import Store
from models.attention_maps import word_attention
from utils.config import stored_config
from utils.errors import UserError


class Gallery:
    """Pictures that can be searched; made by `Gallery.open`. Threads may share one: the model serves one at a time."""

    def __init__(self, store: Store, encoder: Encoder, index: VectorIndex) -> None:
        self._store, self._encoder, self._index = store, encoder, index
        self._calibration = calibration_from(store.manifest.calibration) if store.manifest.calibration else None
        self._rerank_top_k = encoder.config.eval.rerank_top_k
        self._scores_chunks = encoder.config.losses.weights.attribute > 0  # else the head was never shown a chunk
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
            checkpoint: where the model is now, if not where it was then. It must be the same one.
            device: None = a GPU where there is one.
            engine: URL of a Milvus server that holds the vectors; None = the one that the index was made with.
        Raises: UserError if there is no index or checkpoint, or if either is not what it should be.
        """
        store = Store.open(Path(path))
        given = Path(checkpoint) if checkpoint is not None else None
        config = stored_config(store.manifest.config, str(path))
        where = torch.device(device) if device is not None else best_device()
        encoder = Encoder(checked_checkpoint(store.manifest, given), config, where)
        return cls(store, encoder, open_index(store, engine))

    def __len__(self) -> int:
        return len(self._store)

    def query(self, sentence: str, *, top: int = 20, fast: bool = False) -> Answer:
        """The images that fit a sentence best.

        Args:
            sentence: cut to the configuration's dataset.max_words words.
            top: hits at most.
            fast: by similarity alone. Else the matching head orders the first eval.rerank_top_k (or top, if more), and
                hits say how well each chunk fits. A model with eval.rerank_top_k 0 answers like fast all the same.
        Raises: UserError if the sentence is empty or top is not positive.
        """
        begin = time.perf_counter()
        _check_top(top)
        with self._model:
            encoded = self._encoder.sentence(sentence)
        mode: Mode = "fast" if fast or not self._rerank_top_k else "exact"
        if mode == "exact":
            hits = self._matched(encoded, self._nearest(encoded.vector, max(top, self._rerank_top_k)))
        else:
            hits = self._found(encoded.vector, top)
        confidence, nothing = self._confidence(hits, mode)
        return Answer(sentence, tuple(hits[:top]), nothing, confidence, time.perf_counter() - begin, mode)

    def query_image(self, image: Image.Image, *, top: int = 20) -> Answer:
        """The images whose people look most like the one in an image, by the similarity of the image vectors.

        Raises: UserError if top is not positive.
        """
        begin = time.perf_counter()
        _check_top(top)
        pixels = pixels_of(image, self._encoder.image_size)
        with self._model:
            vector = self._encoder.images(pixels[None]).vectors[0]
        hits = tuple(self._found(vector, top))
        return Answer("", hits, None, None, time.perf_counter() - begin, "image")

    def explain(self, sentence: str, image_id: str) -> list[WordHeat]:
        """Where in an indexed image the model looks for each word of a sentence.

        Raises: KeyError if there is no such image; UserError if the sentence is empty, if the file cannot be read any
            more, or if the model has no attention of words.
        """
        pixels = read_image(self.image_path(image_id), self._encoder.image_size)
        model, device = self._encoder.model, self._encoder.device
        with self._model:
            encoded = self._encoder.sentence(sentence)
            chunks = chunks_of(encoded.text, encoded.encoded)
            image = model.normalize(pixels[None].to(device))
            heat = word_attention(model, image, torch.tensor(encoded.encoded.ids, device=device))
        return word_heats(encoded, chunks, heat.float().cpu().numpy())

    def image_path(self, image_id: str) -> Path:
        """The file of an indexed image. Raises: KeyError if there is none of that id."""
        try:
            number = int(image_id, 16)
        except ValueError:
            raise KeyError(f"{image_id!r} is not an image id") from None
        if f"{number:016x}" != image_id:
            raise KeyError(f"{image_id!r} is not an image id")
        return self._path(self._store.key_of(number))

    def describe(self) -> dict[str, Any]:
        """What this index is, in plain values that fit into JSON."""
        manifest, config = self._store.manifest, self._encoder.config
        image, text = config.model.image_encoder, config.model.text_encoder
        image_name = image.name or f"{image.kind}, width {image.embed_dim}, {image.depth} layers"
        return {
            "images": len(self),
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
            "calibrated": self._calibration is not None,
            "engine": manifest.engine or "faiss",
            "device": str(self._encoder.device),
        }

    def close(self) -> None:
        """Let go of the engine."""
        self._index.close()

    def _nearest(self, vector: np.ndarray, k: int) -> dict[int, float]:
        """Similarities by key, best first."""
        if len(self) == 0:
            return {}
        found: Neighbours = self._index.search(vector[None], min(k, len(self)))
        return dict(zip(found.key[0].tolist(), found.similarity[0].tolist(), strict=True))

    def _found(self, vector: np.ndarray, top: int) -> list[Hit]:
        """Hits in the order of the similarity."""
        nearest = self._nearest(vector, top)
        return [self._hit(key, similarity, similarity) for key, similarity in nearest.items()]

    def _matched(self, sentence: Sentence, found: dict[int, float]) -> list[Hit]:
        """Hits in the order of the matching head, with the scores of their chunks."""
        chunks = QueryChunks([], [0] * len(sentence.encoded.ids))
        if self._scores_chunks:
            chunks = chunks_of(sentence.text, sentence.encoded)
        with self._model:
            matches = match_candidates(self._encoder, self._store, sentence, chunks, list(found))
        hits = [self._hit(key, match.score, found[key], match.chunks) for key, match in matches.items()]
        return sorted(hits, key=lambda hit: hit.score, reverse=True)

    def _hit(self, key: int, score: float, similarity: float, chunks: tuple[ChunkScore, ...] = ()) -> Hit:
        path = self._store.image(key).path
        return Hit(image_id(path), Path(self._store.manifest.root) / path, score, similarity, chunks)

    def _path(self, key: int) -> Path:
        return Path(self._store.manifest.root) / self._store.image(key).path

    def _confidence(self, hits: list[Hit], mode: Mode) -> tuple[float | None, bool | None]:
        """Probability that the person is in the gallery, and whether it is below the threshold."""
        calibration = self._calibration
        order = None if calibration is None else calibration.exact if mode == "exact" else calibration.fast
        if order is None or not hits:
            return None, None
        probability = order.probability(hits[0].score)
        return probability, probability < order.threshold


def _check_top(top: int) -> None:
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
