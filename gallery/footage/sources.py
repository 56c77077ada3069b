"""Which pictures and videos are meant by files, folders and globs."""

import glob
import os
import stat
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


class BadSource(NamedTuple):
    """A file or a folder that was not, or not wholly, read."""

    path: Path  # for the user: what of it is not UTF-8 is escaped
    reason: str


class FoundSources(NamedTuple):
    sources: list[Source]  # sorted by path
    other_kinds: Counter[str]  # by suffix: files in folders that are neither pictures nor videos
    bad: list[BadSource]


def find_sources(patterns: Sequence[str], *, outside: Path) -> FoundSources:
    """The pictures and videos that are named, lie in a folder that is named (or below it), or match a glob.

    outside: a folder that is not looked into: that of the crops may lie among the sources.
    Raises: UserError for a pattern without a file, for a named file of another kind, and if there is nothing at all.
    """
    outside = outside.resolve()
    found: set[Path] = set()
    other: Counter[str] = Counter()
    errors: list[OSError] = []
    for pattern in patterns:
        for path in _matches(pattern):
            if path.is_dir():
                walked = os.walk(path, onerror=errors.append)
                files = {_real(Path(folder, file)) for folder, _, names in walked for file in names}
                found |= {file for file in files if _is_known(file)}
                other += Counter(shown(file.suffix.lower() or file.name) for file in files if not _is_known(file))
            elif _is_known(path):
                found.add(_real(path))
            else:
                raise UserError(f"{path} is neither a picture ({_kinds(PICTURES)}) nor a video ({_kinds(VIDEOS)})")
    looked_at = [_looked_at(path) for path in sorted(found) if outside not in path.parents]
    bad = [BadSource(Path(shown(str(error.filename))), error.strerror or str(error)) for error in errors]
    bad += [each for each in looked_at if isinstance(each, BadSource)]
    if not looked_at and not bad:
        raise UserError(f"no picture and no video in {', '.join(patterns)}")
    return FoundSources([each for each in looked_at if isinstance(each, Source)], other, bad)


def source_at(path: Path) -> Source:
    status = path.stat()
    return Source(path, status.st_size, status.st_mtime_ns)


def shown(text: str) -> str:
    """Text of the file system as it can be printed and stored: what is not UTF-8 is escaped."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _looked_at(path: Path) -> Source | BadSource:
    name = shown(str(path))
    if name != str(path):
        return BadSource(Path(name), "its name is not valid UTF-8; rename it")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            return BadSource(path, "it is not a file")
        return source_at(path)
    except OSError as error:
        return BadSource(path, error.strerror or str(error))


def _real(path: Path) -> Path:
    """Where a file really lies; of a link to nowhere, or in a circle, the link or what it names."""
    return Path(os.path.realpath(path))


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
