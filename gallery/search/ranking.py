"""From a query's vector to the hits of its answer, in groups or not."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gallery.answers import ChunkScore, Group, Hit, Mode
from gallery.search.filters import Filter
from gallery.search.groups import FoundGroup, describe_groups, nearest_groups
from gallery.search.live import View
from gallery.search.nearest import nearest
from gallery.store.segments import image_id


class Ranked(NamedTuple):
    """A candidate and what orders it."""

    found: FoundGroup
    score: float
    chunks: tuple[ChunkScore, ...] = ()


def candidates(view: View, vector: np.ndarray, count: int, *, where: Filter | None, group: bool) -> list[Ranked]:
    """The nearest groups of the rows that pass the filter, or the nearest rows, ordered by similarity.

    vector: (E,) float32.
    Raises: CannotAnswer if the vector is not finite.
    """
    if group:
        found = nearest_groups(view, vector, count, where)
    else:
        found = [FoundGroup(key, score, [], []) for key, score in nearest(view, vector, count, where).items()]
    return [Ranked(each, each.similarity) for each in found]


def hits_of(view: View, ranked: Sequence[Ranked], *, where: Filter | None, group: bool) -> list[Hit]:
    """Hits of an answer, in the given order."""
    groups: list[Group | None] = [None] * len(ranked)
    if group:
        groups = [*describe_groups(view.store, [each.found for each in ranked], where)]
    return [_hit(view, each, own) for each, own in zip(ranked, groups, strict=True)]


def confidence_of(view: View, best: float | None, mode: Mode, trust: float) -> tuple[float | None, bool | None]:
    """Probability that the person is in the gallery, and whether it is below the threshold; None = not calibrated.

    Args:
        best: score of the best hit; None = there is no hit.
        trust: factor in [0, 1] of the probability, for words that were not understood.
    """
    calibration = view.calibration
    order = None if calibration is None else calibration.exact if mode == "exact" else calibration.fast
    if order is None or best is None:
        return None, None
    probability = trust * order.probability(best)
    return probability, probability < order.threshold


def _hit(view: View, ranked: Ranked, group: Group | None) -> Hit:
    key, path = ranked.found.key, view.store.image(ranked.found.key).path
    return Hit(
        image_id=image_id(path),
        path=Path(view.store.manifest.root) / path,
        score=ranked.score,
        similarity=ranked.found.similarity,
        chunks=ranked.chunks,
        origin=view.store.origin(key),
        group=group,
    )
