"""Filters of a query: only rows from some sources, of some time, or of some height take part in the ranking.

A row without an origin passes no filter, and one without a time of day passes no filter of time.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from gallery.answers import CannotAnswer
from gallery.footage.origin import Origin
from gallery.store.origins import NO_SOURCE, clock_ms
from gallery.store.segments import Segment
from gallery.store.store import Store

SOURCES_NAMED = 5  # in the error for a pattern that matches none


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows take part. The default: all of them.

    sources: shell patterns, of which one must match. They see the path below the folder that all sources of the index
        share. A pattern without a slash stands for any one part of it, the name or a folder; one with a slash for its
        end; one that begins with a slash for the whole path from the root. Empty = any source.
    after, before: the camera's local time, without a time zone; `after` itself passes and `before` does not.
    min_height: of the box, in pixels of the full frame.
    shared: that folder, filled in by `for_index`.
    Raises: CannotAnswer if no row could pass.
    """

    sources: tuple[str, ...] = ()
    after: datetime | None = None
    before: datetime | None = None
    min_height: float | None = None
    shared: str = ""

    def __post_init__(self) -> None:
        for time in (self.after, self.before):
            if time is not None and time.tzinfo is not None:
                raise CannotAnswer(f"{time.isoformat()}: give the camera's local time, without a time zone")
        if self.after is not None and self.before is not None and self.after >= self.before:
            raise CannotAnswer(f"nothing is after {self.after.isoformat()} and before {self.before.isoformat()}")
        if self.min_height is not None and not self.min_height >= 0:
            raise CannotAnswer(f"the smallest height must not be negative, got {self.min_height}")

    @classmethod
    def parse(
        cls,
        *,
        source: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        min_height: float | None = None,
    ) -> "Filter":
        """A filter from what a user wrote; empty texts count as not given. Raises: CannotAnswer."""
        return cls(
            sources=tuple(pattern for pattern in source if pattern),
            after=parse_time(after, "after") if after else None,
            before=parse_time(before, "before") if before else None,
            min_height=min_height,
        )

    def __bool__(self) -> bool:
        """Whether it leaves out anything."""
        return self != Filter()

    def described(self) -> dict[str, Any]:
        """What was asked for, as values for JSON."""
        return {
            **({"source": list(self.sources)} if self.sources else {}),
            **({"after": self.after.isoformat()} if self.after is not None else {}),
            **({"before": self.before.isoformat()} if self.before is not None else {}),
            **({"min_height": self.min_height} if self.min_height is not None else {}),
        }

    @property
    def asks_for_time(self) -> bool:
        return self.after is not None or self.before is not None

    def passes_source(self, source: str) -> bool:
        return not self.sources or any(_matches(source, pattern, self.shared) for pattern in self.sources)

    def for_index(self, store: Store) -> "Filter":
        """The same filter for the sources of an index.

        Raises: CannotAnswer if none of them passes, or if the index does not know where its images come from.
        """
        if not store.sources:
            raise CannotAnswer("this index does not know where its images come from: make the crops by search.py crop")
        own = replace(self, shared=shared_folder(info.source for info in store.sources))
        if not own.chosen_sources(store):
            names = list(dict.fromkeys(PurePosixPath(info.source).name for info in store.sources))
            more = f" and {len(names) - SOURCES_NAMED} more" if len(names) > SOURCES_NAMED else ""
            raise CannotAnswer(
                f"no source matches {' or '.join(self.sources)}; there are {', '.join(names[:SOURCES_NAMED])}{more}"
            )
        return own

    def chosen_sources(self, store: Store) -> list[str]:
        """The sources of an index that pass."""
        return [info.source for info in store.sources if self.passes_source(info.source)]

    def rows(self, segment: Segment) -> np.ndarray:
        """Whether each row passes (n,) bool, removed rows included."""
        if segment.origins is None:
            return np.zeros(segment.entry.rows, bool)
        records = segment.origins.records
        passes = records["source"] != NO_SOURCE
        if self.sources:
            source_passes = np.array([*map(self.passes_source, segment.origins.sources)])
            passes &= source_passes[records["source"]]
        if self.asks_for_time:
            passes &= records["clock_ms"] >= clock_ms(self.after or datetime.min)  # NOTHING is before that
        if self.before is not None:
            passes &= records["clock_ms"] < clock_ms(self.before)
        if self.min_height is not None:
            passes &= records["box"][:, 3] - records["box"][:, 1] >= np.float32(self.min_height)
        return passes

    def count(self, store: Store) -> int:
        """How many live rows pass."""
        return sum(int(self.rows(segment)[segment.live].sum()) for segment in store.segments.values())


def box_height(origin: Origin) -> float:
    """Of a box in pixels, computed in float32 as `Filter.rows` does."""
    return float(np.float32(origin.box[3]) - np.float32(origin.box[1]))


def parse_time(text: str, what: str) -> datetime:
    """A date, or a date and a time. Raises: CannotAnswer, which names what it was for."""
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError:
        raise CannotAnswer(
            f"{what}: {text!r} is no time; write a date or a date and a time, such as 2026-11-20 or 2026-11-20T08:00"
        ) from None


def shared_folder(sources: Iterable[str]) -> str:
    """The folder that holds all of some sources, at any depth; empty without sources."""
    folders = {str(PurePosixPath(source).parent) for source in sources}
    return os.path.commonpath(folders) if folders else ""


def below(source: str, folder: str) -> str:
    """The part of a source's path below a folder; its name if it lies elsewhere. No folder: the whole path."""
    path = PurePosixPath(source)
    if not folder:
        return source
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def _matches(source: str, pattern: str, shared: str) -> bool:
    if pattern == source:  # a name may hold the characters of patterns
        return True
    own = below(source, "" if pattern.startswith("/") else shared)
    parts, wanted = own.split("/"), pattern.split("/")
    if len(wanted) == 1:
        return any(part == pattern or fnmatchcase(part, pattern) for part in parts)
    ends = len(wanted) <= len(parts) and (not pattern.startswith("/") or len(wanted) == len(parts))
    return ends and all(map(fnmatchcase, parts[-len(wanted) :], wanted))
