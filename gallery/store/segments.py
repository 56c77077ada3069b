"""A segment: a folder of rows that is written once. n rows, E width of a vector, K image tokens of width D.

Files: vectors.f32 (n, E) float32; tokens.f16 (n, K, D) float16, if the index stores tokens; records.bin, one RECORD per
row; paths.bin, the paths of the images in UTF-8; and the files of `gallery.store.origins`. Readers map them into
memory, so that opening costs nothing and a row is read when it is used.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gallery.footage.origin import Origin
from gallery.store.durable import sync_folder
from gallery.store.manifest import SegmentEntry
from gallery.store.origins import ORIGIN, RECORDS_FILE, Origins, OriginsWriter
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
    """The image id as a 64-bit number: the first 8 bytes of the SHA-256 of the path."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")


def image_id(path: str) -> str:
    """The name of an image in answers: its number as 16 hexadecimal digits."""
    return f"{image_number(path):016x}"


def segment_folder(index: Path, serial: int) -> Path:
    return index / "segments" / f"{serial:08d}"


class SegmentWriter:
    """Writes the files of one segment, a batch of rows at a time. No reader sees them until a manifest names them.

    Args:
        token_shape: (K, D); None = the index stores no tokens.
    """

    def __init__(self, index: Path, serial: int, *, token_shape: Sequence[int] | None) -> None:
        self.folder = segment_folder(index, serial)
        self.serial, self.token_shape = serial, token_shape
        self.rows = 0
        self._path_end = 0
        self._origins = OriginsWriter()
        self.folder.mkdir(parents=True)
        names = ["vectors.f32", "records.bin", "paths.bin"] + (["tokens.f16"] if token_shape else [])
        self._files = {name: (self.folder / name).open("wb") for name in names}

    def append(
        self,
        images: Sequence[ImageFile],
        vectors: np.ndarray,
        tokens: np.ndarray | None,
        origins: Sequence[Origin | None] | None = None,
    ) -> None:
        """Add one row per image: vectors (b, E), tokens (b, K, D). Ignores tokens if the index stores none.

        origins: where the images come from (b); None = they are plain pictures.
        Raises: UserError if a vector is not finite: no search could compare anything with it.
        """
        if not np.isfinite(vectors).all():
            raise UserError(f"{self.folder}: a vector of an image is not finite; delete the index and make it anew")
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
        self._origins.append([None] * len(images) if origins is None else origins)
        self.rows += len(images)

    def close(self) -> SegmentEntry:
        """Flush the files to disk. Returns the segment's entry in the manifest."""
        origins = self._origins.files()
        for name, content in origins.items():
            self._files[name] = (self.folder / name).open("wb")
            self._files[name].write(content)
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        sync_folder(self.folder)
        sync_folder(self.folder.parent)
        return SegmentEntry(serial=self.serial, rows=self.rows, origins=bool(origins))


class Segment:
    """Reads one segment.

    Raises: FileNotFoundError if the segment is gone (a writer merged it in the meantime); UserError if a file has the
        wrong size.
    """

    def __init__(self, index: Path, entry: SegmentEntry, *, width: int, token_shape: Sequence[int] | None) -> None:
        self.entry = entry
        self._folder = segment_folder(index, entry.serial)
        self.vectors = self._mapped("vectors.f32", np.float32, (width,))
        self.records = self._mapped("records.bin", RECORD, ())
        self.paths = np.memmap(self._folder / "paths.bin", np.uint8, "r")
        self.tokens = self._mapped("tokens.f16", np.float16, token_shape) if token_shape else None
        self.origins = Origins(self._folder, self._mapped(RECORDS_FILE, ORIGIN, ())) if entry.origins else None
        self.removed = np.array(entry.removed, dtype=np.int64)

    def _mapped(self, name: str, dtype: type | np.dtype, shape: Sequence[int]) -> np.ndarray:
        path = self._folder / name
        wanted = (self.entry.rows, *shape)
        size = int(np.prod(wanted)) * np.dtype(dtype).itemsize
        if path.stat().st_size != size:
            raise UserError(f"{path} is damaged ({path.stat().st_size} bytes, not {size}): index the images anew")
        return np.memmap(path, dtype, "r", shape=wanted)

    @cached_property
    def live(self) -> np.ndarray:
        """Numbers of the rows that were not removed, ascending."""
        return np.delete(np.arange(self.entry.rows), self.removed)

    def image(self, row: int) -> ImageFile:
        record = self.records[row]
        start = int(record["path_start"])
        path = self.paths[start : start + int(record["path_bytes"])].tobytes().decode()
        return ImageFile(path, int(record["size"]), int(record["mtime_ns"]), record["sha256"].tobytes())
