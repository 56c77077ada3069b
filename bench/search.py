"""Measure the first stage of a search for several gallery sizes: python -m bench.search [--sizes 20000 200000 1000000]

Images and queries are random unit vectors around the same random centres. Every engine gets the same store. Measured:
the time to write the store, the time until an engine gives its first answer, recall@k against a plain matrix product,
the time of one query, queries per second in batches, and the resident memory that all this adds (pages of mapped files
included). HNSW is here only for comparison: the search does not offer it.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import faiss
import numpy as np

from bench.load_checkpoint import resident
from bench.rows import Rows
from gallery.search.engine import Engine, Neighbours, merged
from gallery.search.engines import open_engine
from gallery.search.filters import Filter
from gallery.store.manifest import CheckpointStamp, Manifest
from gallery.store.segments import ImageFile
from gallery.store.store import KEYS_PER_SEGMENT, Store
from gallery.store.writer import SEGMENT_ROWS, StoreWriter

ROWS_AT_A_TIME = 10_000
ROWS_PER_CENTRE = 20
SPREAD = 0.6  # of a vector around its centre, in lengths of the centre
QUERIES, QUERIES_AT_ONCE = 200, 64
HNSW_LINKS, HNSW_BUILD, HNSW_SEARCH = 32, 200, 256
MILVUS_ROWS = 50_000  # Milvus in a file is not built for more


class Hnsw:
    """A graph over the same vectors. The graph numbers them in the order of the store's keys."""

    def __init__(self, store: Store) -> None:
        self._graph = faiss.IndexHNSWFlat(store.manifest.width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction, self._graph.hnsw.efSearch = HNSW_BUILD, HNSW_SEARCH
        self._keys = store.keys()

    def update(self, store: Store) -> None:
        for _, segment in sorted(store.segments.items()):
            self._graph.add(np.ascontiguousarray(segment.vectors))

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> Neighbours:
        similarity, row = self._graph.search(queries, k)
        return Neighbours(similarity, self._keys[row])

    def close(self) -> None:
        self._graph.reset()

    def following(self, store: Store) -> "Hnsw":
        raise NotImplementedError("the bench changes no index")


def vectors(rows: int, width: int, seed: int, *, centres: int) -> np.ndarray:
    """Unit vectors (rows, width) float32; the centres are the same for every seed."""
    random = np.random.default_rng(seed)
    centre = _centres(centres, width)[random.integers(centres, size=rows)]
    drawn = centre + SPREAD * random.standard_normal((rows, width), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@cache
def _centres(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)


def write_store(folder: Path, size: int, width: int) -> None:
    stamp = CheckpointStamp(path="none", sha256="0" * 64, size=0, mtime_ns=0)
    manifest = Manifest(name="bench", root="/", checkpoint=stamp, config={}, width=width, token_shape=None)
    with StoreWriter(folder, manifest) as writer:
        serials = range(1, 2 + (size - 1) // SEGMENT_ROWS)
        entries = []
        for serial in serials:
            segment = writer.write_segment(serial)
            end = min(size, serial * SEGMENT_ROWS)
            for start in range((serial - 1) * SEGMENT_ROWS, end, ROWS_AT_A_TIME):
                rows = min(ROWS_AT_A_TIME, end - start)
                images = [ImageFile(f"{start + row}.jpg", 1, 1, bytes(32)) for row in range(rows)]
                segment.append(images, vectors(rows, width, start + 1, centres=centres_of(size)), None)
            entries.append(segment.close())
        writer.commit(entries)


def centres_of(size: int) -> int:
    return max(1, size // ROWS_PER_CENTRE)


def exact_keys(store: Store, queries: np.ndarray, k: int) -> np.ndarray:
    """Keys (Q, k) of the nearest rows, by a matrix product per segment."""
    parts = []
    for serial, segment in sorted(store.segments.items()):
        products = queries @ np.asarray(segment.vectors).T
        rows = np.argpartition(-products, min(k, products.shape[1]) - 1, axis=1)[:, :k]
        parts.append(Neighbours(np.take_along_axis(products, rows, axis=1), rows + serial * KEYS_PER_SEGMENT))
    return merged(parts, k).key


def measure(make: Callable[[Store], Engine], store: Store, queries: np.ndarray, k: int) -> list[str]:
    """Cells of the table: seconds to the first answer, recall, ms per query, queries/s in batches, MiB."""
    gc.collect()
    before = resident("VmRSS")
    begin = time.perf_counter()
    engine = make(store)
    engine.update(store)
    found = [engine.search(queries[:1], k)]
    ready = time.perf_counter() - begin
    begin = time.perf_counter()
    found = [engine.search(query[None], k) for query in queries]
    single = (time.perf_counter() - begin) / len(queries)
    begin = time.perf_counter()
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        engine.search(queries[start : start + QUERIES_AT_ONCE], k)
    many = len(queries) / (time.perf_counter() - begin)
    memory = resident("VmRSS") - before
    engine.close()
    wanted = exact_keys(store, queries, k)
    recall = np.mean([np.isin(own, part.key[0]).mean() for own, part in zip(wanted, found, strict=True)])
    return [f"{ready:.2f}", f"{recall:.4f}", f"{single * 1e3:.2f}", f"{many:.0f}", f"{memory:.0f}"]


def engines(size: int, folder: Path, chosen: Sequence[str]) -> dict[str, Callable[[Store], Engine]]:
    known: dict[str, Callable[[Store], Engine]] = {"faiss": open_engine, "hnsw": Hnsw}
    if find_spec("milvus_lite") and size <= MILVUS_ROWS:
        known["milvus"] = lambda store: open_engine(store, str(folder / "milvus.db"))
    return {name: make for name, make in known.items() if name in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000, 1_000_000], metavar="N")
    parser.add_argument(
        "--engines", nargs="+", choices=("faiss", "hnsw", "milvus"), default=["faiss", "hnsw", "milvus"]
    )
    parser.add_argument("--width", type=int, default=256, help="of a vector")
    parser.add_argument("--top-k", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="where to write; 1.1 GB per million vectors (default: temporary)")
    args = parser.parse_args()
    values = ("store s", "ready s", "recall", "ms/query", "queries/s", "MiB")
    rows = Rows({"images": 9, "engine": 6}, values, title=f"{args.width} dimensions, {args.top_k} neighbours")
    for size in args.sizes:
        with tempfile.TemporaryDirectory(dir=args.folder) as name:
            folder = Path(name)
            begin = time.perf_counter()
            write_store(folder / "index", size, args.width)
            seconds = time.perf_counter() - begin
            queries = vectors(QUERIES, args.width, -1 % 2**32, centres=centres_of(size))
            for engine, make in engines(size, folder, args.engines).items():
                store = Store.open(folder / "index")
                rows.add(f"{size:,}", engine, f"{seconds:.1f}", *measure(make, store, queries, args.top_k))


if __name__ == "__main__":
    main()
