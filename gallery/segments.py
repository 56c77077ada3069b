"""A segment: some rows of an index as files that are written once. n rows, E width of a vector, K tokens of width D.

vectors.f32 (n, E) float32; tokens.f16 (n, K, D) float16, where tokens are kept; records.bin, one RECORD per row;
paths.bin, the rows' paths in UTF-8. All are memory-mapped: opening costs nothing, a row is read when it is needed.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gallery.manifest import SegmentEntry, sync_folder
from utils.errors import UserError

RECORD = np.dtype(
    [
        ("id", "<u8"),
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("sha256", "V32"),
        ("path_start", "<i8"),
        ("path_bytes", "<i4"),
    ]
)


class ImageFile(NamedTuple):
    """An image as it was when it was encoded."""

    path: str  # relative to the index's root, with slashes
    size: int  # bytes
    mtime_ns: int
    sha256: bytes


def image_number(path: str) -> int:
    """The image id as a 64-bit number: the beginning of the path's SHA-256."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")


def image_id(path: str) -> str:
    """What an image is called in answers: its number in 16 hexadecimal digits."""
    return f"{image_number(path):016x}"


def segment_folder(index: Path, serial: int) -> Path:
    return index / "segments" / f"{serial:08d}"


class SegmentWriter:
    """Writes the files of one segment, a batch of rows at a time. Nobody reads them before a manifest names them.

    Args:
        token_shape: (K, D), or None where tokens are not kept.
    """

    def __init__(self, index: Path, serial: int, *, token_shape: Sequence[int] | None) -> None:
        self.folder = segment_folder(index, serial)
        self.serial, self.token_shape = serial, token_shape
        self.rows = 0
        self._path_end = 0
        self.folder.mkdir(parents=True)
        names = ["vectors.f32", "records.bin", "paths.bin"] + (["tokens.f16"] if token_shape else [])
        self._files = {name: (self.folder / name).open("wb") for name in names}

    def append(self, images: Sequence[ImageFile], vectors: np.ndarray, tokens: np.ndarray | None) -> None:
        """Rows of images: vectors (b, E); tokens (b, K, D), looked at only where they are kept."""
        records = np.zeros(len(images), RECORD)
        for record, image in zip(records, images, strict=True):
            path = image.path.encode()
            record["id"], record["size"], record["mtime_ns"] = image_number(image.path), image.size, image.mtime_ns
            record["sha256"] = np.void(image.sha256)
            record["path_start"], record["path_bytes"] = self._path_end, len(path)
            self._files["paths.bin"].write(path)
            self._path_end += len(path)
        self._files["records.bin"].write(records.tobytes())
        self._files["vectors.f32"].write(np.ascontiguousarray(vectors, np.float32).tobytes())
        if self.token_shape:
            assert tokens is not None
            self._files["tokens.f16"].write(np.ascontiguousarray(tokens, np.float16).tobytes())
        self.rows += len(images)

    def close(self) -> SegmentEntry:
        """Put everything on disk; returns what the manifest says of it."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        sync_folder(self.folder)
        sync_folder(self.folder.parent)
        return SegmentEntry(serial=self.serial, rows=self.rows)


class Segment:
    """The files of one segment, read.

    Raises: FileNotFoundError if it is gone (a writer joined it with others meanwhile), UserError if it was cut off.
    """

    def __init__(self, index: Path, entry: SegmentEntry, *, width: int, token_shape: Sequence[int] | None) -> None:
        self.entry = entry
        self._folder = segment_folder(index, entry.serial)
        self.vectors = self._mapped("vectors.f32", np.float32, (width,))
        self.records = self._mapped("records.bin", RECORD, ())
        self.paths = np.memmap(self._folder / "paths.bin", np.uint8, "r")
        self.tokens = self._mapped("tokens.f16", np.float16, token_shape) if token_shape else None
        self.removed = np.array(entry.removed, dtype=np.int64)

    def _mapped(self, name: str, kind: type | np.dtype, shape: Sequence[int]) -> np.ndarray:
        path = self._folder / name
        wanted = (self.entry.rows, *shape)
        size = int(np.prod(wanted)) * np.dtype(kind).itemsize
        if path.stat().st_size != size:
            raise UserError(f"{path} is damaged ({path.stat().st_size} bytes, not {size}): index the images anew")
        return np.memmap(path, kind, "r", shape=wanted)

    @cached_property
    def live(self) -> np.ndarray:
        """Numbers of the rows that count, ascending."""
        return np.delete(np.arange(self.entry.rows), self.removed)

    def image(self, row: int) -> ImageFile:
        record = self.records[row]
        start = int(record["path_start"])
        path = self.paths[start : start + int(record["path_bytes"])].tobytes().decode()
        return ImageFile(path, int(record["size"]), int(record["mtime_ns"]), record["sha256"].tobytes())
