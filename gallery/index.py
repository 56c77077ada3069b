"""First stage of a search: the nearest vectors by inner product. Q queries, E width of a vector, k neighbours.

Two implementations: FAISS over the memory-mapped vectors (the default), and Milvus by its URL for galleries that
outgrow one machine. The store stays what counts in both cases; Milvus holds a copy of its vectors.
"""

from typing import NamedTuple, Protocol

import numpy as np

from gallery.store import Store
from utils.errors import UserError


class Neighbours(NamedTuple):
    """Best first; equal similarities in the order of the keys."""

    similarity: np.ndarray  # (Q, k) float32
    key: np.ndarray  # (Q, k) int64, rows of the store


class VectorIndex(Protocol):
    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """The k rows with the largest inner product with each query (Q, E) float32; all rows where there are fewer."""
        ...

    def following(self, store: Store) -> "VectorIndex":
        """For a newer state of the store; this one goes on answering from its own. Closing the last one closes all."""
        ...

    def update(self, store: Store) -> None:
        """Hold exactly the live rows of the store, from now on."""
        ...

    def close(self) -> None: ...


def open_index(store: Store, engine: str | None = None) -> VectorIndex:
    """The index of a store: by the engine that its manifest names, unless another one is given.

    Raises: UserError if the engine is not a Milvus URL, not installed or not reachable.
    """
    engine = engine or store.manifest.engine
    if engine is None:
        from gallery.faiss_index import FaissIndex

        return FaissIndex(store)
    if not (engine.startswith(("http://", "https://", "tcp://", "unix:")) or engine.endswith(".db")):
        raise UserError(f"engine {engine}: expected the URL of a Milvus server (http://host:19530) or a file name.db")
    from gallery.milvus_index import MilvusIndex

    return MilvusIndex(engine, store)


def merged(parts: list[Neighbours], k: int) -> Neighbours:
    """The k best of several results for the same queries."""
    similarity = np.concatenate([part.similarity for part in parts], axis=1)
    key = np.concatenate([part.key for part in parts], axis=1)
    order = np.lexsort((key, -similarity), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(similarity, order, axis=1), np.take_along_axis(key, order, axis=1))
