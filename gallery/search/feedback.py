"""Relevance feedback: results that a user marked as right or wrong move the query. E width of a vector.

Rocchio's rule: towards the mean of the images marked as right, a little away from the mean of those marked as wrong.
The weights were measured (docs/decisions/0003-queries.md), against logistic regression among others.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gallery.answers import CannotAnswer
from gallery.search.filters import Filter
from gallery.search.groups import track_of
from gallery.search.live import View
from gallery.search.nearest import key_of
from gallery.search.ranking import Ranked, candidates
from gallery.store.store import Store

LIKED_WEIGHT, DISLIKED_WEIGHT = 1.0, 0.1  # of the means; the query's own vector has weight 1


class Marks(NamedTuple):
    """Keys of the images that the user marked."""

    liked: list[int]
    disliked: list[int]


def marks_of(view: View, liked: Sequence[str], disliked: Sequence[str]) -> Marks:
    """Marks by image ids.

    Raises: UnknownImage (a KeyError) if there is no such image; CannotAnswer if an image is marked as both.
    """
    both = set(liked) & set(disliked)
    if both:
        raise CannotAnswer(f"image {sorted(both)[0]} is marked both as right and as wrong")
    return Marks(*([key_of(view, each) for each in dict.fromkeys(ids)] for ids in (liked, disliked)))


def moved(vector: np.ndarray, store: Store, marks: Marks) -> np.ndarray:
    """The vector (E,) of a query after the marks, of length 1; the same vector without marks."""
    if not any(marks):
        return vector
    for keys, weight in zip(marks, (LIKED_WEIGHT, -DISLIKED_WEIGHT), strict=True):
        if keys:
            vector = vector + weight * np.mean([store.vector(key) for key in keys], axis=0)
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)


def marked_candidates(
    view: View, vector: np.ndarray, count: int, marks: Marks, *, where: Filter | None, group: bool
) -> list[Ranked]:
    """`ranking.candidates` of the moved vector, without those that the user marked as wrong."""
    vector, wanted = moved(vector, view.store, marks), count + len(marks.disliked)
    while True:
        found = candidates(view, vector, wanted, where=where, group=group)
        kept = _without_disliked(found, view.store, marks.disliked)
        if len(kept) >= count or len(found) < wanted:  # enough, or all that there is
            return kept
        wanted *= 2  # with an image its whole track leaves, which may be long


def _without_disliked(ranked: Sequence[Ranked], store: Store, disliked: Sequence[int]) -> list[Ranked]:
    """Candidates that are not marked as wrong and share no track with an image that is."""
    keys = set(disliked)
    tracks = {track_of(store.origin(key)) for key in disliked} - {None}
    return [
        each
        for each in ranked
        if keys.isdisjoint((each.found.key, *each.found.copies))
        and tracks.isdisjoint((track_of(store.origin(each.found.key)), *each.found.tracks))
    ]
