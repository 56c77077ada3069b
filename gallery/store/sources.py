"""The pictures and videos that the images of an index come from."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import numpy as np

from gallery.store.origins import NO_SOURCE, NOTHING, clock_of
from gallery.store.segments import Segment


class SourceInfo(NamedTuple):
    """A picture or a video, and what the index has of it."""

    source: str  # as in its rows' origins
    crops: int  # live rows
    is_video: bool
    first_clock: datetime | None  # of its rows; None = no row has a time of day
    last_clock: datetime | None


def count_sources(segments: Iterable[Segment]) -> list[SourceInfo]:
    """All sources of live rows, by name."""
    found: dict[str, SourceInfo] = {}
    for segment in segments:
        if segment.origins is None:
            continue
        records = segment.origins.records[segment.live]
        for number in np.unique(records["source"]).tolist():
            if number != NO_SOURCE:
                own = _info(segment.origins.sources[number], records[records["source"] == number])
                found[own.source] = _both(found[own.source], own) if own.source in found else own
    return [info for _, info in sorted(found.items())]


def _info(source: str, records: np.ndarray) -> SourceInfo:
    clocks = records["clock_ms"][records["clock_ms"] != NOTHING]
    first, last = (clock_of(clocks.min()), clock_of(clocks.max())) if len(clocks) else (None, None)
    return SourceInfo(source, len(records), bool(np.isfinite(records["time_s"]).any()), first, last)


def _both(one: SourceInfo, other: SourceInfo) -> SourceInfo:
    clocks = [clock for info in (one, other) for clock in (info.first_clock, info.last_clock) if clock is not None]
    first, last = (min(clocks), max(clocks)) if clocks else (None, None)
    return SourceInfo(one.source, one.crops + other.crops, one.is_video or other.is_video, first, last)
