"""First stage of a search: what an engine does. Q queries, E width of a vector, k neighbours.

The store is the truth; an engine only finds its rows. `gallery.search.engines` knows the engines there are.
"""

from typing import NamedTuple, Protocol

import numpy as np

from gallery.search.filters import Filter
from gallery.store.store import Store


class Neighbours(NamedTuple):
    """The nearest rows of each query, best first; equal similarities by ascending key."""

    similarity: np.ndarray  # (Q, k) float32
    key: np.ndarray  # (Q, k) int64, keys of the store


class Engine(Protocol):
    """Finds the nearest vectors by inner product."""

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> Neighbours:
        """The k rows with the largest inner product with each query (Q, E) float32; all rows if there are fewer.

        where: only among the rows that pass, which are filtered before the k best are taken.
        """
        ...

    def following(self, store: Store) -> "Engine":
        """An engine for a newer state of the store; this one keeps answering from its own. Closing one closes both."""
        ...

    def update(self, store: Store) -> None:
        """Hold exactly the live rows of the store from now on."""
        ...

    def close(self) -> None: ...


def merged(parts: list[Neighbours], k: int) -> Neighbours:
    """The k best of several results for the same queries."""
    similarity = np.concatenate([part.similarity for part in parts], axis=1)
    key = np.concatenate([part.key for part in parts], axis=1)
    order = np.lexsort((key, -similarity), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(similarity, order, axis=1), np.take_along_axis(key, order, axis=1))
