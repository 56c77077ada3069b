"""Drawn pedestrians and a model for bench/queries.py: vectors and tokens of their images, and what each image shows."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch

from dataset.captions import clean_caption
from dataset.images import read_image
from dataset.records import read_records
from dataset.synthpedes.shown import Shown, read_shown
from gallery.encoding.checkpoints import config_of
from gallery.encoding.chunks import QueryChunks
from gallery.encoding.encoder import Encoder, Sentence, best_device
from utils.log import progress

IMAGES_AT_A_TIME = 64
SEED = 0


class Caption(NamedTuple):
    text: str  # cleaned
    person_id: int


class Drawn:
    """A split of a SynthPedes folder, seen by a model. N images, E width of a vector."""

    def __init__(self, checkpoint: Path, data: Path, split: str) -> None:
        self.encoder = Encoder(checkpoint, config_of(checkpoint), best_device())
        records = read_records(data, split)
        self.person_id = np.array([record.person_id for record in records])
        shown = read_shown(data)
        self.shown: list[Shown] = [shown[record.file_path] for record in records]
        vectors, tokens = [], []
        for start in progress(range(0, len(records), IMAGES_AT_A_TIME), "encode", "batches"):
            part = records[start : start + IMAGES_AT_A_TIME]
            size = self.encoder.image_size
            pixels = torch.stack([read_image(data / "imgs" / record.file_path, size) for record in part])
            encoded = self.encoder.images(pixels)
            vectors.append(encoded.vectors)
            tokens.append(encoded.tokens.float().cpu())
        self.vectors, self.tokens = np.concatenate(vectors), torch.cat(tokens)  # (N, E), (N, K, D)
        self._captions = [
            Caption(clean_caption(text, self.encoder.config.dataset.max_words), record.person_id)
            for record in records
            for text in record.captions
        ]

    def captions(self, count: int) -> list[Caption]:
        """A random choice of captions, always the same."""
        return Random(SEED).sample(self._captions, min(count, len(self._captions)))

    def sentences(self, texts: Sequence[str]) -> list[Sentence]:
        return [self.encoder.sentence(text) for text in texts]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(T, E)"""
        return np.stack([sentence.vector for sentence in self.sentences(texts)])

    def match(self, sentence: Sentence, chunks: QueryChunks, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n,) and chunk probabilities (n, C) of some images, by the matching head."""
        scores, parts = [], []
        for start in range(0, len(images), IMAGES_AT_A_TIME):
            tokens = self.tokens[images[start : start + IMAGES_AT_A_TIME]]
            found = self.encoder.match(sentence, chunks, tokens)
            scores.append(found.scores.numpy())
            parts.append(found.chunks.numpy())
        return np.concatenate(scores), np.concatenate(parts)


def first(similarity: np.ndarray, count: int) -> np.ndarray:
    """Rows of the largest values, best first."""
    return np.argsort(-similarity, kind="stable")[:count]


def average_precision(relevant: np.ndarray) -> float:
    """Of a ranking, best first; nan if nothing is relevant."""
    places = np.flatnonzero(relevant)
    return float(np.mean(np.arange(1, len(places) + 1) / (places + 1))) if len(places) else float("nan")
