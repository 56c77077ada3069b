"""An open index: its rows as they were when it was opened.

The key of a row is the serial of its segment times 2**32, plus the row's number in the segment. A key is never reused.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gallery.footage.origin import Origin
from gallery.store.manifest import Manifest, read_manifest
from gallery.store.origins import TrackKey
from gallery.store.segments import ImageFile, Segment
from gallery.store.sources import SourceInfo, count_sources
from utils.errors import UserError

KEYS_PER_SEGMENT = 2**32
OPENING_ATTEMPTS = 5


class UnknownImage(KeyError):
    """The index has no image of that id."""


class _Numbers(NamedTuple):
    """The live rows, ordered by image number."""

    numbers: np.ndarray  # (live,) uint64, ascending
    keys: np.ndarray  # (live,) int64


class Store:
    """The rows of an index, mapped into memory. To see what a writer commits later, open the index again."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.segments = {
            entry.serial: Segment(folder, entry, width=manifest.width, token_shape=manifest.token_shape)
            for entry in manifest.segments
        }

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Raises: UserError if there is no index, or if it is damaged."""
        for _ in range(OPENING_ATTEMPTS):
            manifest = read_manifest(folder)
            # A writer may have merged segments and deleted the old ones since: then there is a new manifest.
            with suppress(FileNotFoundError):
                return cls(folder, manifest)
        raise UserError(f"{folder} lacks files that its manifest names: delete the folder and index the images again")

    def __len__(self) -> int:
        return sum(entry.live for entry in self.manifest.segments)

    def __contains__(self, key: int) -> bool:
        """Whether the key belongs to a live row."""
        serial, row = divmod(int(key), KEYS_PER_SEGMENT)
        if serial not in self.segments or row >= self.segments[serial].entry.rows:
            return False
        removed = self.segments[serial].entry.removed  # ascending
        place = bisect_left(removed, row)
        return place == len(removed) or removed[place] != row

    def keys(self) -> np.ndarray:
        """Keys of all live rows (n,), ascending."""
        parts = [serial * KEYS_PER_SEGMENT + segment.live for serial, segment in sorted(self.segments.items())]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def image(self, key: int) -> ImageFile:
        segment, row = self._place(key)
        return segment.image(row)

    def images(self) -> Iterator[tuple[int, ImageFile]]:
        """The key and the image of every live row, by ascending key."""
        for key in self.keys().tolist():
            yield key, self.image(key)

    def vector(self, key: int) -> np.ndarray:
        """(E,) float32."""
        segment, row = self._place(key)
        return segment.vectors[row]

    def tokens(self, key: int) -> np.ndarray | None:
        """(K, D) float16; None = the index stores no tokens."""
        segment, row = self._place(key)
        return None if segment.tokens is None else segment.tokens[row]

    def origin(self, key: int) -> Origin | None:
        """Where a row comes from; None = a plain picture."""
        segment, row = self._place(key)
        return None if segment.origins is None else segment.origins.origin(row)

    def track(self, track: TrackKey) -> np.ndarray:
        """Keys of the live rows of a track (n,), by frame."""
        keys, frames = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for serial, segment in self.segments.items():
            if segment.origins is not None:
                rows = segment.origins.rows_of(track)
                rows = rows[np.isin(rows, segment.removed, invert=True)]
                keys.append(serial * KEYS_PER_SEGMENT + rows)
                frames.append(segment.origins.records["frame"][rows])
        return np.concatenate(keys)[np.argsort(np.concatenate(frames), kind="stable")]

    @cached_property
    def sources(self) -> list[SourceInfo]:
        """The pictures and videos that the live rows come from, by name; empty if no row has an origin."""
        return count_sources(self.segments.values())

    def key_of(self, number: int) -> int:
        """The key of the image with this number. Raises: UnknownImage if there is none."""
        place = int(np.searchsorted(self._numbers.numbers, np.uint64(number)))
        if place == len(self._numbers.numbers) or int(self._numbers.numbers[place]) != number:
            raise UnknownImage(f"image {number:016x} is not in the index")
        return int(self._numbers.keys[place])

    @cached_property
    def _numbers(self) -> _Numbers:
        live = [segment.records["id"][segment.live] for _, segment in sorted(self.segments.items())]
        numbers = np.concatenate(live) if live else np.zeros(0, np.uint64)
        order = np.argsort(numbers, kind="stable")
        return _Numbers(numbers[order], self.keys()[order])

    def _place(self, key: int) -> tuple[Segment, int]:
        serial, row = divmod(int(key), KEYS_PER_SEGMENT)
        return self.segments[serial], row
