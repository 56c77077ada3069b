"""The pictures and videos that the images of an index come from."""

from collections.abc import Iterable, Iterator
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
        for own in _of_segment(segment):
            found[own.source] = _both(found[own.source], own) if own.source in found else own
    return [info for _, info in sorted(found.items())]


def _of_segment(segment: Segment) -> Iterator[SourceInfo]:
    if segment.origins is None:
        return
    records = segment.origins.records[segment.live]
    records = records[records["source"] != NO_SOURCE]
    records = records[np.argsort(records["source"], kind="stable")]
    numbers, starts, counts = np.unique(records["source"], return_index=True, return_counts=True)
    if len(numbers) == 0:
        return
    clocks, known = records["clock_ms"], records["clock_ms"] != NOTHING
    last = np.maximum.reduceat(clocks, starts)
    first = np.minimum.reduceat(np.where(known, clocks, np.iinfo(np.int64).max), starts)
    videos = np.logical_or.reduceat(np.isfinite(records["time_s"]), starts)
    for number, count, is_video, earliest, latest in zip(numbers, counts, videos, first, last, strict=True):
        ends = (None, None) if latest == NOTHING else (clock_of(earliest), clock_of(latest))
        yield SourceInfo(segment.origins.sources[number], int(count), bool(is_video), *ends)


def _both(one: SourceInfo, other: SourceInfo) -> SourceInfo:
    clocks = [clock for info in (one, other) for clock in (info.first_clock, info.last_clock) if clock is not None]
    first, last = (min(clocks), max(clocks)) if clocks else (None, None)
    return SourceInfo(one.source, one.crops + other.crops, one.is_video or other.is_video, first, last)
