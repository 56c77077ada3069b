"""How the first stage grows with a gallery: python -m bench.scale [--sizes N ...] [--kinds SQ8 ...]

Vectors are simulated as in bench/search.py, in blocks, so that only one index at a time is in memory: 10 million
vectors of 256 numbers are 10 GB in float32 and 2.6 GB in 8 bits. Measured for each kind of FAISS index: bytes per
vector, the time to add one, how many of the first 10 and of all k of an exact search it finds, and milliseconds per
query, one at a time and all at once; the last column is the time of a query whose filter lets 1 % of the rows pass (a
bitmap, as in gallery/search/faiss_engine.py). All times are processor time of one thread, which other programs on the
machine disturb little.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from bench.rows import Rows
from bench.search import centres_of, vectors

BLOCK_ROWS = 100_000
TRAINING_ROWS = 100_000
LISTS, LISTS_READ = 1024, 32  # of an inverted file
KINDS = {
    "Flat": "Flat",
    "SQfp16": "SQfp16",
    "SQ8": "SQ8",
    "IVF-SQ8": f"IVF{LISTS},SQ8",
}
FILTER_SHARE = 0.01
FIRST = 10


def blocks(size: int, width: int) -> Iterator[np.ndarray]:
    """The vectors of a gallery (size, width), a block at a time."""
    for start in range(0, size, BLOCK_ROWS):
        yield vectors(min(BLOCK_ROWS, size - start), width, start + 1, centres=centres_of(size))


def exact_rows(size: int, width: int, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, k) of the nearest vectors in float32, best first."""
    similarity, rows = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for number, block in enumerate(blocks(size, width)):
        similarity = np.concatenate([similarity, queries @ block.T], axis=1)
        own = np.broadcast_to(np.arange(len(block)) + number * BLOCK_ROWS, (len(queries), len(block)))
        rows = np.concatenate([rows, own], axis=1)
        best = np.argpartition(-similarity, min(k, similarity.shape[1]) - 1, axis=1)[:, :k]
        similarity, rows = np.take_along_axis(similarity, best, axis=1), np.take_along_axis(rows, best, axis=1)
    order = np.argsort(-similarity, axis=1)
    return np.take_along_axis(rows, order, axis=1)


def build(kind: str, size: int, width: int) -> tuple[faiss.Index, float]:
    """An index of the gallery, and the microseconds that one vector took to add (without drawing it)."""
    index = faiss.index_factory(width, KINDS[kind], faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors(min(size, TRAINING_ROWS), width, 1, centres=centres_of(size)))
    seconds = 0.0
    for block in blocks(size, width):
        begin = time.process_time()
        index.add(block)
        seconds += time.process_time() - begin
    return index, seconds / size * 1e6


def parameters(kind: str, selector: faiss.IDSelector | None = None) -> faiss.SearchParameters:
    """The selector must live as long as they do."""
    params: Any = faiss.SearchParametersIVF() if kind.startswith("IVF") else faiss.SearchParameters()
    if kind.startswith("IVF"):
        params.nprobe = LISTS_READ
    params.sel = selector
    return params


def bytes_of(index: faiss.Index) -> int:
    """Size of the index as a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "index")
        faiss.write_index(index, path)
        return os.path.getsize(path)


def milliseconds(
    index: faiss.Index, queries: np.ndarray, k: int, params: faiss.SearchParameters, at_once: int
) -> float:
    begin = time.process_time()
    for start in range(0, len(queries), at_once):
        index.search(queries[start : start + at_once], k, params=params)
    return (time.process_time() - begin) / len(queries) * 1e3


def measure(kind: str, size: int, width: int, queries: np.ndarray, truth: np.ndarray) -> list[str]:
    """Cells of the table."""
    k = truth.shape[1]
    index, microseconds = build(kind, size, width)
    plain = parameters(kind)
    _, found = index.search(queries, k, params=plain)
    recalls = [np.mean([np.isin(t[:n], f).mean() for f, t in zip(found, truth, strict=True)]) for n in (FIRST, k)]
    chosen = np.zeros(size, bool)
    chosen[size // 2 : size // 2 + max(1, int(FILTER_SHARE * size))] = True
    packed = np.packbits(chosen, bitorder="little")
    selector = faiss.IDSelectorBitmap(size, faiss.swig_ptr(packed))
    cells = [
        f"{bytes_of(index) / size:.0f}",
        f"{microseconds:.1f}",
        *(f"{recall:.3f}" for recall in recalls),
        f"{milliseconds(index, queries, k, plain, 1):.2f}",
        f"{milliseconds(index, queries, k, plain, len(queries)):.2f}",
        f"{milliseconds(index, queries, k, parameters(kind, selector), 1):.2f}",
    ]
    del index
    gc.collect()
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["Flat", "SQfp16", "SQ8", "IVF-SQ8"])
    parser.add_argument("--queries", type=int, default=64, metavar="N")
    parser.add_argument("--width", type=int, default=256, help="of a vector")
    parser.add_argument("--top-k", type=int, default=128)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    values = ("bytes", "us to add", "first 10", "recall", "ms/query", "ms, many", "ms at 1 %")
    rows = Rows({"vectors": 10, "index": 8}, values, title=f"{args.width} numbers, {args.top_k} neighbours, one thread")
    for size in args.sizes:
        queries = vectors(args.queries, args.width, -1 % 2**32, centres=centres_of(size))
        truth = exact_rows(size, args.width, queries, args.top_k)
        for kind in args.kinds:
            rows.add(f"{size:,}", kind, *measure(kind, size, args.width, queries, truth))


if __name__ == "__main__":
    main()
