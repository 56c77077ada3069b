"""A small index of random vectors, its nearest rows by a plain matrix product, and what its files contain."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gallery.footage.origin import Origin
from gallery.search.engine import Neighbours
from gallery.store.manifest import CheckpointStamp, Manifest
from gallery.store.segments import ImageFile, image_number
from gallery.store.store import Store
from gallery.store.writer import StoreWriter

WIDTH = 16


def new_writer(folder: Path) -> StoreWriter:
    """An empty index without tokens."""
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    manifest = Manifest(name="test", root="/", checkpoint=stamp, config={}, width=WIDTH, token_shape=None)
    return StoreWriter(folder, manifest)


def add(writer: StoreWriter, name: str, rows: int, origins: Sequence[Origin | None] | None = None) -> None:
    vectors = np.random.default_rng(len(writer.store)).standard_normal((rows, WIDTH), dtype=np.float32)
    segment = writer.write_segment(writer.store.manifest.next_serial)
    segment.append([ImageFile(f"{name}/{row}.jpg", 1, 1, bytes(32)) for row in range(rows)], vectors, None, origins)
    writer.commit([segment.close()])


def origin(source: str = "/rec/cam1/0800.mp4", frame: int = 0, **changes: Any) -> Origin:
    """A crop of a video that began at eight o'clock, of 25 frames per second."""
    clock = datetime(2026, 11, 20, 8) + timedelta(seconds=frame / 25)
    plain = Origin(source, frame, frame / 25, clock, (10.0, 20.0, 50.0, 120.0), (640, 360), 0.5, 1)
    return plain._replace(**changes)


def expected(
    store: Store, queries: np.ndarray, k: int, passes: Callable[[Origin | None], bool] | None = None
) -> Neighbours:
    """By the whole matrix of products, of the rows whose origin passes."""
    keys = np.array([key for key in store.keys().tolist() if passes is None or passes(store.origin(key))], np.int64)
    products = queries @ np.array([store.vector(key) for key in keys]).reshape(-1, WIDTH).T
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return Neighbours(np.take_along_axis(products, order, axis=1), keys[order])


def traces(folder: Path, name: str, *also: bytes) -> set[str]:
    """Names of the files of an index that contain an image's path, its number, or other bytes."""
    needles = (name.encode(), image_number(name).to_bytes(8, "little"), *also)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if any(needle in path.read_bytes() for needle in needles)}
