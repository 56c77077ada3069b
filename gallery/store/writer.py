"""The one process that may change an index: commits, removals, and merging of small segments."""

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gallery.footage.origin import Origin
from gallery.store.manifest import FILE, Manifest, SegmentEntry, read_manifest, write_manifest
from gallery.store.origins import NO_ORIGINS
from gallery.store.segments import ImageFile, Segment, SegmentWriter, segment_folder
from gallery.store.store import KEYS_PER_SEGMENT, Store
from utils.errors import UserError

SEGMENT_ROWS = 2**16  # at most, in a merged segment: FAISS searches several segments in several threads
SMALL_ROWS = 2**12  # segments with fewer live rows are merged once there are more than MANY_SMALL of them
MANY_SMALL = 16
MOSTLY_REMOVED = 0.25  # a segment with a larger share of removed rows is rewritten
ROWS_AT_A_TIME = 64
LEFT_BY_A_CRASH = frozenset({"lock", f"{FILE}.tmp"})  # all that can be there before the first manifest


class StoreWriter:
    """Changes an index; use it in a `with` statement. Readers see all of a commit or nothing of it.

    Raises: UserError if another process is writing, or if a new index would lie among unrelated files.
    """

    def __init__(self, folder: Path, new: Manifest | None = None) -> None:
        """new: the manifest of an index to create; None = the index must exist."""
        _prepare(folder) if new is not None else read_manifest(folder)
        self.folder = folder
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is changing the index {folder}; wait for it to end") from None
        try:
            if new is not None:
                if (folder / FILE).exists():  # another process was faster
                    raise UserError(f"{folder} is an index already")
                write_manifest(folder, new)
            self.store = Store.open(folder)
            self._delete_unnamed_segments()
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
        """Add segments and remove rows by their keys. A new row replaces the old row of the same image.

        changes: new values for other fields of the manifest.
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
        self._delete_unnamed_segments()

    def tidy(self) -> None:
        """Rewrite segments that have lost many rows, and merge the small ones if there are many."""
        live = {entry.serial: entry.live for entry in self.store.manifest.segments}
        worn = [e.serial for e in self.store.manifest.segments if len(e.removed) > MOSTLY_REMOVED * e.rows]
        small = [serial for serial, rows in live.items() if rows < SMALL_ROWS]
        chosen = sorted({*worn, *(small if len(small) > MANY_SMALL else ())})
        added = self._copies([key for serial in chosen for key in self._live_keys(serial)])
        if added:
            self.commit(added)

    def erase(self, removed: Iterable[int], **changes: Any) -> None:
        """Remove rows, and earlier removed ones, from the files themselves.

        Their segments are copied without them; one commit replaces the originals by the copies.
        """
        gone = {int(key) for key in removed}
        touched = {key // KEYS_PER_SEGMENT for key in gone}
        touched |= {entry.serial for entry in self.store.manifest.segments if entry.removed}
        kept = [key for serial in sorted(touched) for key in self._live_keys(serial) if key not in gone]
        self.commit(self._copies(kept), removed=gone, **changes)

    def _live_keys(self, serial: int) -> list[int]:
        return (serial * KEYS_PER_SEGMENT + self.store.segments[serial].live).tolist()

    def _copies(self, keys: Sequence[int]) -> list[SegmentEntry]:
        """Write the rows to new segments, which are not committed yet."""
        first = self.store.manifest.next_serial
        starts = range(0, len(keys), SEGMENT_ROWS)
        return [self._copy(keys[start : start + SEGMENT_ROWS], serial) for serial, start in enumerate(starts, first)]

    def _copy(self, keys: Sequence[int], serial: int) -> SegmentEntry:
        writer = self.write_segment(serial)
        for start in range(0, len(keys), ROWS_AT_A_TIME):
            self.copy_rows(writer, {key: self.store.image(key) for key in keys[start : start + ROWS_AT_A_TIME]})
        return writer.close()

    def copy_rows(
        self, writer: SegmentWriter, images: dict[int, ImageFile], origins: Mapping[str, Origin] = NO_ORIGINS
    ) -> None:
        """Append stored rows to a new segment.

        images: by the rows' keys, what is now known of their files.
        origins: by the images' paths, where that is new.
        """
        vectors = np.stack([self.store.vector(key) for key in images])
        tokens = [self.store.tokens(key) for key in images]
        kept = np.stack([part for part in tokens if part is not None]) if writer.token_shape else None
        known = [origins.get(image.path) or self.store.origin(key) for key, image in images.items()]
        writer.append(list(images.values()), vectors, kept, known)

    def _replaced(self, added: Sequence[SegmentEntry]) -> set[int]:
        """Keys of the live rows whose images are also in the new segments."""
        manifest, gone = self.store.manifest, set()
        for entry in added:
            segment = Segment(self.folder, entry, width=manifest.width, token_shape=manifest.token_shape)
            for number in segment.records["id"].tolist():
                with suppress(KeyError):
                    gone.add(self.store.key_of(number))
        return gone

    def _delete_unnamed_segments(self) -> None:
        """Delete segments that the manifest does not name: a crash left them, or they were just replaced."""
        known = {segment_folder(self.folder, serial) for serial in self.store.segments}
        for folder in (self.folder / "segments").glob("*"):
            if folder not in known and re.fullmatch(r"\d{8,}", folder.name):  # we made no folder of another name
                shutil.rmtree(folder)


def _prepare(folder: Path) -> None:
    """Make the folder of a new index. Raises: UserError if it holds unrelated files."""
    folder.mkdir(parents=True, exist_ok=True)
    others = sorted({path.name for path in folder.iterdir()} - LEFT_BY_A_CRASH)
    if others and not (folder / FILE).exists():
        raise UserError(f"{folder} holds {others[0]} but no index: give a new or empty folder for one")


def _without(entry: SegmentEntry, gone: set[int]) -> SegmentEntry:
    first = entry.serial * KEYS_PER_SEGMENT
    rows = {key - first for key in gone if first <= key < first + KEYS_PER_SEGMENT}
    return replace(entry, removed=sorted({*entry.removed, *rows}))
