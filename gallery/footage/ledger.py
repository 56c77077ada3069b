"""What has been cropped so far: a SQLite file in the folder of crops, from which the table is written.

A run that is killed leaves the rows up to its last commit, and the next one goes on from there.
"""

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from gallery.footage.origin import Origin
from gallery.footage.sources import Source
from gallery.footage.table import FILE as TABLE
from gallery.footage.table import Crop, write_rows
from gallery.footage.tracking import Sighting
from utils.errors import UserError

FILE = "crops.sqlite"
COMMIT_EVERY_S = 2.0
STATE_DIGITS = 8  # of the hash that stands for the content of a source
TABLES = """
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS source (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    settings TEXT NOT NULL, next_frame INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS crop (
    image TEXT PRIMARY KEY, source INTEGER NOT NULL REFERENCES source(id), frame INTEGER NOT NULL, time_s REAL,
    clock TEXT, x0 REAL NOT NULL, y0 REAL NOT NULL, x1 REAL NOT NULL, y1 REAL NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, score REAL, track INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS crops_of_source ON crop (source, frame);
"""


class Entry(NamedTuple):
    """A source that is being cropped or was."""

    id: int
    next_frame: int  # the first that was not looked at
    done: bool


class Seen(NamedTuple):
    """The crops of a frame, for tracking."""

    images: list[str]
    sighting: Sighting


class Ledger:
    """Use it in a `with` statement; what it gets is kept at COMMIT_EVERY_S, and at `finish` and the end.

    Raises: UserError if another process crops into the folder, or if it holds something else.
    """

    def __init__(self, folder: Path) -> None:
        _prepare(folder)
        self.folder = folder
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process crops into {folder}; wait for it to end") from None
        self._rows = sqlite3.connect(folder / FILE)
        self._committed = time.monotonic()
        try:
            self._rows.executescript(TABLES)
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise UserError(f"{folder / FILE} is damaged ({error}); delete it to crop everything anew") from error

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.commit()
        self._rows.close()
        self._lock.release()

    def entry(self, source: Source, settings: str) -> Entry | None:
        """What is known of a source as it is now, cropped with these settings; None = nothing."""
        wanted = (source.name, source.size, source.mtime_ns, settings)
        query = "SELECT id, next_frame, done FROM source WHERE (name, size, mtime_ns, settings) = (?, ?, ?, ?)"
        row = self._rows.execute(query, wanted).fetchone()
        return Entry(row[0], row[1], bool(row[2])) if row else None

    def begin(self, source: Source, settings: str) -> Entry:
        """Note a source, and delete what there is of an earlier state of it, noted or not."""
        _delete_crops(self.folder, source)
        for (number,) in self._rows.execute("SELECT id FROM source WHERE name = ?", (source.name,)).fetchall():
            self._rows.execute("DELETE FROM crop WHERE source = ?", (number,))
            self._rows.execute("DELETE FROM source WHERE id = ?", (number,))
        columns = "INSERT INTO source (name, size, mtime_ns, settings) VALUES (?, ?, ?, ?)"
        cursor = self._rows.execute(columns, (source.name, source.size, source.mtime_ns, settings))
        return Entry(int(cursor.lastrowid or 0), 0, False)

    def add(self, entry: Entry, crops: Sequence[Crop], next_frame: int) -> None:
        """Add the crops of a frame, whose files are written already."""
        rows = [_row(entry.id, crop) for crop in crops]
        self._rows.executemany(f"INSERT OR REPLACE INTO crop VALUES ({', '.join('?' * 13)})", rows)
        self._rows.execute("UPDATE source SET next_frame = ? WHERE id = ?", (next_frame, entry.id))
        if time.monotonic() - self._committed > COMMIT_EVERY_S:
            self._rows.commit()
            self._committed = time.monotonic()

    def seen(self, entry: Entry) -> Iterator[Seen]:
        """The frames of a source that show people, in order."""
        query = "SELECT frame, time_s, image, score, x0, y0, x1, y1 FROM crop WHERE source = ? ORDER BY frame, image"
        for (_, time_s), group in groupby(self._rows.execute(query, (entry.id,)), key=lambda row: row[:2]):
            rows = list(group)
            boxes, scores = (np.array([row[part] for row in rows], np.float32) for part in (slice(4, 8), 3))
            yield Seen([row[2] for row in rows], Sighting(time_s, boxes, scores))

    def finish(self, entry: Entry, tracks: Iterable[tuple[str, int]] = ()) -> None:
        """Note that a source is done, and the tracks of its crops: pairs of image and number.

        `tracks` may come from `seen`: no index of the rows that it reads has their tracks.
        """
        self._rows.executemany("UPDATE crop SET track = ? WHERE image = ?", ((n, image) for image, n in tracks))
        self._rows.execute("UPDATE source SET done = 1 WHERE id = ?", (entry.id,))

    def delete(self, images: Sequence[str]) -> None:
        """Delete crops, files first. Their sources stay what they are: the crops do not come back by another run."""
        for image in images:
            (self.folder / image).unlink(missing_ok=True)
        self._rows.executemany("DELETE FROM crop WHERE image = ?", [(image,) for image in images])

    def write_table(self) -> int:
        """Write the table of the folder anew. Returns: how many crops it has."""
        self._rows.commit()
        return write_rows(self.folder / TABLE, self._crops())

    def _crops(self) -> Iterator[Crop]:
        query = (
            "SELECT image, name, frame, time_s, clock, x0, y0, x1, y1, width, height, score, track "
            "FROM crop JOIN source ON source.id = crop.source ORDER BY name, frame, image"
        )
        for image, name, frame, time_s, clock, *numbers, width, height, score, track in self._rows.execute(query):
            at = datetime.fromisoformat(clock) if clock else None
            yield Crop(image, Origin(name, frame, time_s, at, tuple(numbers), (width, height), score, track))


def image_path(source: Source, frame: int, number: int) -> str:
    """Where a crop lies in the folder: a folder for each video and for each folder of pictures.

    No crop has the path of one of an earlier content: an index that is to leave that out would leave out both.
    """
    state = sha256(f"{source.size} {source.mtime_ns}".encode()).hexdigest()[:STATE_DIGITS]
    if source.is_video:
        return f"{_unique(source.path)}-{state}/{frame:07d}-{number}.jpg"
    return f"{_unique(source.path.parent)}/{_unique(source.path)}-{state}-{number}.jpg"


def _delete_crops(folder: Path, source: Source) -> None:
    """Delete the crops of all contents of a source that lie in the folder, and the folders of a video."""
    name = _unique(source.path)
    if not source.is_video:
        for path in (folder / _unique(source.path.parent)).glob(f"{name}-*.jpg"):
            path.unlink()
        return
    for own in (folder / name, *folder.glob(f"{name}-{'?' * STATE_DIGITS}")):  # the first is of earlier versions
        for path in own.glob("*.jpg"):
            path.unlink()
        with suppress(OSError):  # there is none, or it holds something else
            own.rmdir()


def _unique(path: Path) -> str:
    """A readable name without odd characters, and no two of the same."""
    plain = re.sub(r"[^\w.-]+", "_", path.name)[:80]
    return f"{plain}-{sha256(path.as_posix().encode()).hexdigest()[:8]}"


def _prepare(folder: Path) -> None:
    """Make the folder. Raises: UserError if it holds something else: an index of it would take that for crops."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / FILE).exists() and any(each.name != "lock" for each in folder.iterdir()):
        raise UserError(f"{folder} holds something else than crops: give a new folder")


def _row(source: int, crop: Crop) -> tuple[Any, ...]:
    origin = crop.origin
    clock = origin.clock.isoformat() if origin.clock else None
    box, size = map(float, origin.box), origin.frame_size
    return (crop.image, source, origin.frame, origin.time_s, clock, *box, *size, origin.score, origin.track)
