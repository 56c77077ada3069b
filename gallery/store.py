"""An index on disk, as it was when it was opened, and the one process that may change it. Knows no torch.

A row is known by its key: the serial of its segment times 2**32, plus its number there. Keys are never given twice.
"""

import logging
import re
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from gallery.manifest import FILE, Manifest, SegmentEntry, read_manifest, write_manifest
from gallery.segments import ImageFile, Segment, SegmentWriter, segment_folder
from utils.errors import UserError

logger = logging.getLogger(__name__)

KEYS_PER_SEGMENT = 2**32
SEGMENT_ROWS = 2**16  # at most, when segments are joined; several of them are searched by several threads
SMALL_ROWS = 2**12  # segments with fewer live rows are joined when there are more than MANY_SMALL of them
MANY_SMALL = 16
MOSTLY_REMOVED = 0.25  # share of removed rows from which a segment is written anew
ROWS_AT_A_TIME = 64
OPENING_ATTEMPTS = 5
LEFT_BY_A_CRASH = frozenset({"lock", f"{FILE}.tmp"})  # all that there is before the first manifest


class UnknownImage(KeyError):
    """The index has no image of that id."""


class _Numbers(NamedTuple):
    """Live rows in the order of their image numbers."""

    numbers: np.ndarray  # (live,) uint64, ascending
    keys: np.ndarray  # (live,) int64


class Store:
    """The rows of an index, memory-mapped. What a writer commits later is not seen; open it again for that."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.segments = {
            entry.serial: Segment(folder, entry, width=manifest.width, token_shape=manifest.token_shape)
            for entry in manifest.segments
        }

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Raises: UserError if there is no index, or a damaged one."""
        for _ in range(OPENING_ATTEMPTS):
            manifest = read_manifest(folder)
            # a writer may join segments and delete the old ones between the two: then the manifest is a new one
            with suppress(FileNotFoundError):
                return cls(folder, manifest)
        raise UserError(f"{folder} lacks files that its manifest names: delete the folder and index the images again")

    def __len__(self) -> int:
        return sum(entry.live for entry in self.manifest.segments)

    def __contains__(self, key: int) -> bool:
        """Whether it is the key of a live row."""
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
        """Every live row's key and image, in the order of the keys."""
        for key in self.keys().tolist():
            yield key, self.image(key)

    def vector(self, key: int) -> np.ndarray:
        """(E,) float32."""
        segment, row = self._place(key)
        return segment.vectors[row]

    def tokens(self, key: int) -> np.ndarray | None:
        """(K, D) float16, or None where they are not stored."""
        segment, row = self._place(key)
        return None if segment.tokens is None else segment.tokens[row]

    def key_of(self, number: int) -> int:
        """The row of an image number. Raises: UnknownImage."""
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


class StoreWriter:
    """The only process that may change an index; use it in a with statement. Every commit is whole or not there.

    Raises: UserError if another process is writing, or if a new index would lie among other files.
    """

    def __init__(self, folder: Path, new: Manifest | None = None) -> None:
        """new: what to begin with where there is no index yet; None = there must be one."""
        _prepare(folder) if new is not None else read_manifest(folder)
        self.folder = folder
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is changing the index {folder}; wait for it to end") from None
        try:
            if new is not None:
                if (folder / FILE).exists():  # made by another process since we looked
                    raise UserError(f"{folder} is an index already")
                write_manifest(folder, new)
            self.store = Store.open(folder)
            self._delete_strangers()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def write_segment(self, serial: int) -> SegmentWriter:
        return SegmentWriter(self.folder, serial, token_shape=self.store.manifest.token_shape)

    def commit(self, added: Sequence[SegmentEntry] = (), removed: Iterable[int] = (), **changes: Any) -> None:
        """Make segments part of the index and remove rows by their keys; rows of images that are added again go, too.

        changes: of other fields of the manifest.
        """
        added = [entry for entry in added if entry.rows]
        manifest = self.store.manifest
        gone = {int(key) for key in removed} | self._replaced(added)
        entries = [_without(entry, gone) for entry in manifest.segments]
        write_manifest(
            self.folder,
            replace(
                manifest,
                segments=[*(entry for entry in entries if entry.live), *added],
                next_serial=max([manifest.next_serial, *(entry.serial + 1 for entry in added)]),
                **changes,
            ),
        )
        self.store = Store.open(self.folder)
        self._delete_strangers()

    def tidy(self) -> None:
        """Write segments anew that are mostly removed, and join small ones when there are many."""
        live = {entry.serial: entry.live for entry in self.store.manifest.segments}
        worn = [e.serial for e in self.store.manifest.segments if len(e.removed) > MOSTLY_REMOVED * e.rows]
        small = [serial for serial, rows in live.items() if rows < SMALL_ROWS]
        chosen = sorted({*worn, *(small if len(small) > MANY_SMALL else ())})
        added = self._copies([key for serial in chosen for key in self._live_keys(serial)])
        if added:
            self.commit(added)

    def erase(self, removed: Iterable[int], **changes: Any) -> None:
        """Remove rows so that no file holds anything of them, nor of the rows that were removed before.

        The segments they lie in are written anew without them; one commit brings in the copies and drops the originals.
        """
        gone = {int(key) for key in removed}
        touched = {key // KEYS_PER_SEGMENT for key in gone}
        touched |= {entry.serial for entry in self.store.manifest.segments if entry.removed}
        kept = [key for serial in sorted(touched) for key in self._live_keys(serial) if key not in gone]
        self.commit(self._copies(kept), removed=gone, **changes)

    def _live_keys(self, serial: int) -> list[int]:
        return (serial * KEYS_PER_SEGMENT + self.store.segments[serial].live).tolist()

    def _copies(self, keys: Sequence[int]) -> list[SegmentEntry]:
        """Segments, not committed yet, with the same rows."""
        first = self.store.manifest.next_serial
        starts = range(0, len(keys), SEGMENT_ROWS)
        return [self._copy(keys[start : start + SEGMENT_ROWS], serial) for serial, start in enumerate(starts, first)]

    def _copy(self, keys: Sequence[int], serial: int) -> SegmentEntry:
        writer = self.write_segment(serial)
        for start in range(0, len(keys), ROWS_AT_A_TIME):
            self.copy_rows(writer, {key: self.store.image(key) for key in keys[start : start + ROWS_AT_A_TIME]})
        return writer.close()

    def copy_rows(self, writer: SegmentWriter, images: dict[int, ImageFile]) -> None:
        """Append stored rows, by their keys, to a new segment under what is now known of their images."""
        vectors = np.stack([self.store.vector(key) for key in images])
        tokens = [self.store.tokens(key) for key in images]
        kept = np.stack([part for part in tokens if part is not None]) if writer.token_shape else None
        writer.append(list(images.values()), vectors, kept)

    def _replaced(self, added: Sequence[SegmentEntry]) -> set[int]:
        """Keys of the live rows whose images the new segments hold as well."""
        manifest, gone = self.store.manifest, set()
        for entry in added:
            segment = Segment(self.folder, entry, width=manifest.width, token_shape=manifest.token_shape)
            for number in segment.records["id"].tolist():
                with suppress(KeyError):
                    gone.add(self.store.key_of(number))
        return gone

    def _delete_strangers(self) -> None:
        """Delete segments that the manifest does not name: left by a crash, or just replaced."""
        known = {segment_folder(self.folder, serial) for serial in self.store.segments}
        for folder in (self.folder / "segments").glob("*"):
            if folder not in known and re.fullmatch(r"\d{8,}", folder.name):  # any other name is none of ours
                shutil.rmtree(folder)


def _prepare(folder: Path) -> None:
    """Raises: UserError if a new index would lie among files that have nothing to do with it."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted({path.name for path in folder.iterdir()} - LEFT_BY_A_CRASH)
    if others and not (folder / FILE).exists():
        raise UserError(f"{folder} holds {others[0]} but no index: give a new or empty folder for one")


def _without(entry: SegmentEntry, gone: set[int]) -> SegmentEntry:
    first = entry.serial * KEYS_PER_SEGMENT
    rows = {key - first for key in gone if first <= key < first + KEYS_PER_SEGMENT}
    return replace(entry, removed=sorted({*entry.removed, *rows}))
