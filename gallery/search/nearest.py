"""The nearest rows of a query's vector, and rows by their image ids."""

import re

import numpy as np

from gallery.answers import CannotAnswer
from gallery.search.filters import Filter
from gallery.search.live import View
from gallery.store.store import UnknownImage


def nearest(view: View, vector: np.ndarray, k: int, where: Filter | None = None) -> dict[int, float]:
    """Similarities of the k nearest rows that pass the filter, by key, best first.

    vector: (E,) float32.
    Raises: CannotAnswer if the vector is not finite.
    """
    if not np.isfinite(vector).all():
        raise CannotAnswer("the model makes no finite numbers of this query, so nothing can be compared with it")
    if len(view.store) == 0:
        return {}
    found = view.engine.search(vector[None], min(k, len(view.store)), where)
    return dict(zip(found.key[0].tolist(), found.similarity[0].tolist(), strict=True))


def key_of(view: View, image_id: str) -> int:
    """The key of an image id, which must be written exactly as in answers: no prefix, capitals or blanks.

    Raises: UnknownImage (a KeyError) if no image has this id.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", image_id):
        raise UnknownImage(f"{image_id!r} is not an image id")
    return view.store.key_of(int(image_id, 16))
