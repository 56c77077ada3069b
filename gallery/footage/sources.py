"""Which pictures and videos are meant by files, folders and globs."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"})
VIDEOS = frozenset({".mp4", ".mkv", ".avi", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts"})


class Source(NamedTuple):
    """A picture or a video as it is now."""

    path: Path  # absolute
    size: int  # bytes
    mtime_ns: int

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEOS

    @property
    def name(self) -> str:
        """As in the table of crops."""
        return self.path.as_posix()


class FoundSources(NamedTuple):
    sources: list[Source]  # sorted by path
    other_kinds: Counter[str]  # by suffix: files in folders that are neither pictures nor videos


def find_sources(patterns: Sequence[str], *, outside: Path) -> FoundSources:
    """The pictures and videos that are named, lie in a folder that is named (or below it), or match a glob.

    outside: a folder that is not looked into: that of the crops may lie among the sources.
    Raises: UserError for a pattern without a file, for a named file of another kind, and if there is nothing at all.
    """
    outside = outside.resolve()
    found: set[Path] = set()
    other: Counter[str] = Counter()
    for pattern in patterns:
        for path in _matches(pattern):
            if path.is_dir():
                files = {Path(folder, file).resolve() for folder, _, names in os.walk(path) for file in names}
                found |= {file for file in files if _is_known(file)}
                other += Counter(file.suffix.lower() or file.name for file in files if not _is_known(file))
            elif _is_known(path):
                found.add(path.resolve())
            else:
                raise UserError(f"{path} is neither a picture ({_kinds(PICTURES)}) nor a video ({_kinds(VIDEOS)})")
    paths = sorted(path for path in found if outside not in path.parents)
    if not paths:
        raise UserError(f"no picture and no video in {', '.join(patterns)}")
    return FoundSources([source_at(path) for path in paths], other)


def source_at(path: Path) -> Source:
    status = path.stat()
    return Source(path, status.st_size, status.st_mtime_ns)


def _matches(pattern: str) -> list[Path]:
    if os.path.exists(pattern):
        return [Path(pattern)]
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    if not paths:
        raise UserError(f"{pattern}: no such file or folder")
    return [path for path in paths if path.is_dir() or _is_known(path)]


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in PICTURES | VIDEOS


def _kinds(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffix[1:] for suffix in suffixes))
