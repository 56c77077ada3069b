"""Second stage of a search: the matching head scores the candidates of the first. K image tokens, D their width."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gallery.answers import ChunkScore
from gallery.encoding.chunks import QueryChunks
from gallery.encoding.encoder import Encoder, Sentence, pixels_of
from gallery.encoding.pictures import IndexedImage, PictureChanged, UnreadablePicture, decode
from gallery.store.store import Store

logger = logging.getLogger(__name__)

IMAGES_AT_A_TIME = 64


class Match(NamedTuple):
    """Output of the matching head for one image."""

    score: float  # logit of "same person"
    chunks: tuple[ChunkScore, ...]


def match_candidates(
    encoder: Encoder, store: Store, sentence: Sentence, chunks: QueryChunks, keys: Sequence[int]
) -> dict[int, Match]:
    """Matches by the keys of the images. If the index stores no tokens, images whose files have changed have none."""
    matches: dict[int, Match] = {}
    for readable, tokens in _tokens(encoder, store, keys):
        scores, probabilities = encoder.match(sentence, chunks, tokens)
        for key, score, row in zip(readable, scores.tolist(), probabilities.tolist(), strict=True):
            matches[key] = Match(score, tuple(map(ChunkScore, chunks.texts, row)))
    return matches


def _tokens(encoder: Encoder, store: Store, keys: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
    """Keys and tokens (b, K, D) of images, batch by batch: from the index if it stores tokens, else from the files."""
    root = Path(store.manifest.root)
    for start in range(0, len(keys), IMAGES_AT_A_TIME):
        part = list(keys[start : start + IMAGES_AT_A_TIME])
        stored = [store.tokens(key) for key in part]
        kept = [tokens for tokens in stored if tokens is not None]
        if kept:
            yield part, torch.from_numpy(np.stack(kept))
            continue
        pixels: dict[int, Tensor] = {}
        for key in part:
            image = IndexedImage.of(root, store.image(key))
            try:
                pixels[key] = pixels_of(decode(image.read()), encoder.image_size)
            except (PictureChanged, UnreadablePicture) as error:
                logger.warning("%s left out of the answer: %s", image.path, error)
        if pixels:
            yield list(pixels), encoder.images(torch.stack(list(pixels.values()))).tokens
