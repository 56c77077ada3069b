"""The exact inner product by FAISS, straight over the mapped vectors: nothing to build, nothing to keep in step.

An exact search is fast enough on one machine (bench/search.py measures it). Among equal similarities at the k-th place,
FAISS decides which one is returned.
"""

import logging
import os
from concurrent.futures import ThreadPoolExecutor

logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # logs up to four lines while it loads

import faiss  # noqa: E402
import numpy as np  # noqa: E402

from gallery.search.engine import Neighbours, merged  # noqa: E402
from gallery.search.filters import Filter  # noqa: E402
from gallery.store.segments import Segment  # noqa: E402
from gallery.store.store import KEYS_PER_SEGMENT, Store  # noqa: E402


class FaissEngine:
    """Searches the segments of a store, each with its own call of FAISS."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor | None = None) -> None:
        self._segments: list[Segment] = []
        self._width = store.manifest.width
        self._pool = pool or ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
        self.update(store)

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> Neighbours:
        queries = np.ascontiguousarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._width:
            raise ValueError(f"expected queries (Q, {self._width}), got {queries.shape}")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        nothing = Neighbours(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64))
        # FAISS gives each query one thread, so a single query uses one thread per segment instead
        each = self._pool.map if len(queries) == 1 else map
        return merged([nothing, *each(lambda segment: _search(segment, queries, k, where), self._segments)], k)

    def following(self, store: Store) -> "FaissEngine":
        return FaissEngine(store, self._pool)

    def update(self, store: Store) -> None:
        self._segments = [segment for _, segment in sorted(store.segments.items())]

    def close(self) -> None:
        self._pool.shutdown()


def _search(segment: Segment, queries: np.ndarray, k: int, where: Filter | None) -> Neighbours:
    rows, width = segment.vectors.shape
    chosen = np.ones(rows, bool) if where is None else where.rows(segment)
    chosen[segment.removed] = False
    count = int(chosen.sum())
    k = min(k, count)
    similarity = np.empty((len(queries), k), np.float32)
    row = np.empty((len(queries), k), np.int64)
    if k == 0:
        return Neighbours(similarity, row)
    packed = np.packbits(chosen, bitorder="little")
    selector = faiss.IDSelectorBitmap(rows, faiss.swig_ptr(packed)) if count < rows else None
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(segment.vectors),
        width,
        len(queries),
        rows,
        k,
        faiss.swig_ptr(similarity),
        faiss.swig_ptr(row),
        selector,
    )
    return Neighbours(similarity, row + segment.entry.serial * KEYS_PER_SEGMENT)
