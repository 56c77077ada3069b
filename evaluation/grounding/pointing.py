"""Pointing: does the map of a word lie on the part that the word names? N words, C columns, P people.

A map has a value per patch, so a word points at a patch. It scores the share of that patch which lies in the box of the
named part. A word that points at random then scores, on average, the share of the picture that the box covers: chance.
After the pointing game of Zhang et al. (arXiv:1608.00507), which scores a pixel in a box as 1 or 0.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from dataset.synthpedes.parts import Part
from dataset.tokenizer import Encoded
from evaluation.grounding.cases import Case
from evaluation.grounding.people import Mean, mean_over_people


class Pointed(NamedTuple):
    """A word that names a part which can be seen."""

    part: str
    person_id: int
    score: float  # in [0, 1]
    chance: float


class Pointing(NamedTuple):
    """Pointing accuracy of some words."""

    accuracy: Mean
    chance: Mean
    above_chance: Mean  # difference of the two
    words: int


def point(case: Case, encoded: Encoded, maps: Tensor, has_map: Tensor | None = None) -> Iterator[Pointed]:
    """Score each word that names a part of the picture.

    Args: maps: (L, rows, columns), of the tokens of `encoded`. has_map: (L,) bool, which of them have one; None = all.
    """
    for _, part, start, end in case.caption.names:
        if part not in case.parts:
            continue  # hidden in this picture
        words = case.caption.text[start:end].split(" ")
        begin = start
        for word in words:
            tokens = [n for n, (a, b) in enumerate(encoded.offsets) if a < begin + len(word) and begin < b]
            begin += len(word) + 1
            if tokens and (has_map is None or has_map[tokens].all()):
                score, chance = score_map(maps[tokens].mean(dim=0).numpy(), case.parts[part])
                yield Pointed(part, case.person_id, score, chance)


def score_map(heat: np.ndarray, part: Part) -> tuple[float, float]:
    """Share of the strongest patch that lies in a part's box, and that expected of a random patch.

    heat: (rows, columns), >= 0. A map without any attention points nowhere and scores 0.
    """
    left, top, right, bottom = part.box
    chance = (right - left) * (bottom - top)
    if not heat.max() > 0:
        return 0.0, chance
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    return _overlap(top, bottom, int(row), heat.shape[0]) * _overlap(left, right, int(column), heat.shape[1]), chance


def _overlap(low: float, high: float, cell: int, cells: int) -> float:
    """Share of a cell, one of so many that divide [0, 1], which lies in [low, high]."""
    return max(0.0, min(high * cells, cell + 1) - max(low * cells, cell))


def measure_pointing(pointed: list[Pointed]) -> dict[str, Pointing]:
    """Accuracy by part, and of "all" words."""
    parts = sorted({one.part for one in pointed})
    chosen = {"all": pointed, **{part: [one for one in pointed if one.part == part] for part in parts}}
    return {name: _measured(words) for name, words in chosen.items() if words}


def _measured(words: list[Pointed]) -> Pointing:
    values = np.array([[one.score, one.chance, one.score - one.chance] for one in words])
    accuracy, chance, above_chance = mean_over_people(values, np.array([one.person_id for one in words]))
    return Pointing(accuracy, chance, above_chance, len(words))
