"""Origins of a segment's rows: origins.bin, one ORIGIN per row, and sources.json, the sources that they number.

A segment has these files if one of its rows has an origin, and its entry in the manifest says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from gallery.footage.origin import Origin

RECORDS_FILE, SOURCES_FILE = "origins.bin", "sources.json"
ORIGIN = np.dtype(
    [
        ("source", "<i4"),  # number in sources.json; NO_SOURCE = the row has no origin
        ("frame", "<i8"),
        ("time_s", "<f8"),  # nan = None
        ("clock_ms", "<i8"),  # since 1970, in the camera's local time; NOTHING = None
        ("box", "<f4", (4,)),
        ("frame_size", "<i4", (2,)),
        ("score", "<f4"),  # nan = None
        ("track", "<i8"),  # NOTHING = None
    ]
)
NO_SOURCE = -1
NOTHING = np.iinfo(np.int64).min
NO_ORIGINS: Mapping[str, Origin] = MappingProxyType({})  # by path
EPOCH, MILLISECOND = datetime(1970, 1, 1), timedelta(milliseconds=1)


class TrackKey(NamedTuple):
    """One person's crops in one source."""

    source: str
    track: int


def clock_ms(clock: datetime) -> int:
    """A local time as ORIGIN stores it."""
    return (clock - EPOCH) // MILLISECOND


def clock_of(milliseconds: int) -> datetime | None:
    return None if milliseconds == NOTHING else EPOCH + int(milliseconds) * MILLISECOND


class OriginsWriter:
    """Collects the origins of a segment's rows, 64 bytes each, and writes them when the segment is complete."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._numbers: dict[str, int] = {}

    def append(self, origins: Sequence[Origin | None]) -> None:
        records = np.zeros(len(origins), ORIGIN)
        records["source"], records["track"] = NO_SOURCE, NOTHING
        for record, origin in zip(records, origins, strict=True):
            if origin is None:
                continue
            record["source"] = self._numbers.setdefault(origin.source, len(self._numbers))
            record["frame"] = origin.frame
            record["time_s"] = math.nan if origin.time_s is None else origin.time_s
            record["clock_ms"] = NOTHING if origin.clock is None else clock_ms(origin.clock)
            record["box"], record["frame_size"] = origin.box, origin.frame_size
            record["score"] = math.nan if origin.score is None else origin.score
            record["track"] = NOTHING if origin.track is None else origin.track
        self._parts.append(records)

    def files(self) -> dict[str, bytes]:
        """Contents of the files by their names; empty if no row has an origin."""
        if not self._numbers:
            return {}
        sources = json.dumps(list(self._numbers), ensure_ascii=False).encode()
        return {RECORDS_FILE: np.concatenate(self._parts).tobytes(), SOURCES_FILE: sources}


class Origins:
    """The origins of a segment's rows. n rows."""

    def __init__(self, folder: Path, records: np.ndarray) -> None:
        """records: (n,) ORIGIN."""
        self.records = records
        self.sources: list[str] = json.loads((folder / SOURCES_FILE).read_text(encoding="utf-8"))

    def origin(self, row: int) -> Origin | None:
        record = self.records[row]
        if record["source"] == NO_SOURCE:
            return None
        time_s, score, track = float(record["time_s"]), float(record["score"]), int(record["track"])
        x0, y0, x1, y1 = record["box"].tolist()
        width, height = record["frame_size"].tolist()
        return Origin(
            source=self.sources[record["source"]],
            frame=int(record["frame"]),
            time_s=None if math.isnan(time_s) else time_s,
            clock=clock_of(record["clock_ms"]),
            box=(x0, y0, x1, y1),
            frame_size=(width, height),
            score=None if math.isnan(score) else score,
            track=None if track == NOTHING else track,
        )

    def tracks(self, rows: np.ndarray) -> tuple[list[TrackKey | None], np.ndarray]:
        """The tracks of rows (n,), each once, and the number of each row's own among them (n,)."""
        source = self.records["source"][rows]
        track, place = np.unique(self.records["track"][rows], return_inverse=True)
        pairs, inverse = np.unique(source.astype(np.int64) * len(track) + place, return_inverse=True)
        own = [(int(number) // len(track), int(track[number % len(track)])) for number in pairs]
        return [
            None if number == NOTHING else TrackKey(self.sources[source], number) for source, number in own
        ], inverse

    def rows_of(self, key: TrackKey) -> np.ndarray:
        """Numbers of the rows of a track (m,), by frame; removed rows as well."""
        number, order = self._numbers.get(key.source), self._order
        if number is None:
            return np.zeros(0, np.int64)
        first, end = (np.searchsorted(order.source, number, side) for side in ("left", "right"))
        low, high = (first + np.searchsorted(order.track[first:end], key.track, side) for side in ("left", "right"))
        return order.row[low:high]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {source: number for number, source in enumerate(self.sources)}

    @cached_property
    def _order(self) -> "_Order":
        row = np.lexsort((self.records["frame"], self.records["track"], self.records["source"]))
        return _Order(row, self.records["source"][row], self.records["track"][row])


class _Order(NamedTuple):
    """A segment's rows by source, track and frame, each (n,)."""

    row: np.ndarray
    source: np.ndarray
    track: np.ndarray
