"""Which images a folder holds, and what has changed since they were indexed. Imports no torch."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gallery.footage.origin import Origin
from gallery.store.origins import NO_ORIGINS
from gallery.store.segments import ImageFile
from gallery.store.store import Store
from utils.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
OTHER_PICTURES = frozenset(  # counted, so that nobody believes them indexed
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl"}
    | {".pgm", ".pnm", ".ppm", ".svg", ".tga", ".tif", ".tiff"}
)


class FoundImage(NamedTuple):
    """A picture file in the folder."""

    path: str  # relative to the folder, with slashes
    size: int  # bytes
    mtime_ns: int


class Unreadable(NamedTuple):
    """A file or a folder that cannot be read."""

    path: str  # "." = the root
    reason: str
    keep: bool = False  # it may still exist: the index keeps what it has of this path and below


class Found(NamedTuple):
    images: list[FoundImage]  # sorted by path
    unreadable: list[Unreadable]
    other_kinds: Counter[str]  # by suffix: how many pictures of kinds that are not read


class Changes(NamedTuple):
    """What to do to bring an index up to date with a folder."""

    encode: list[str]  # paths of the images that are new or have other content
    touched: dict[int, ImageFile]  # by key: images of which only the file's time or the origin has changed
    gone: list[int]  # keys of the images that no longer exist
    unchanged: int
    kept: int  # images that could not be checked and stay in the index


def walk(root: Path) -> Found:
    """All pictures below a folder, by file suffix. Does not follow links to folders.

    Raises: UserError if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    errors: list[OSError] = []
    other: Counter[str] = Counter()
    found = _look_at(root, sorted(_names(root, errors, other)))
    folders = [not_looked_at(_posix(error.filename, root), error) for error in errors]
    return Found(found.images, [*folders, *found.unreadable], other)


def not_read(other_kinds: Counter[str]) -> str:
    """Say how many pictures of which kinds are left out, and what to do; "" if there are none."""
    if not other_kinds:
        return ""
    counts = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(other_kinds.items()))
    return f"{counts} not read: convert them to jpg, png or webp"


def listed(root: Path, paths: Iterable[str]) -> Found:
    """The pictures at these paths, relative to the folder or absolute. A missing file counts as unreadable.

    Raises: UserError if a path lies outside the folder.
    """
    return _look_at(root, sorted({relative(root, path) for path in paths}))


def relative(root: Path, path: str) -> str:
    """A path as the index stores it; "" = the root itself. Raises: UserError if it is not below the root."""
    inside = os.path.relpath(os.path.join(os.path.abspath(root), path), os.path.abspath(root))
    if inside == ".":
        return ""
    if PurePosixPath(inside).parts[0] == "..":
        raise UserError(f"{path} is not below {root}, the folder that this index is of")
    return PurePosixPath(inside).as_posix()


def compare(
    store: Store,
    found: Found,
    root: Path,
    *,
    origins: Mapping[str, Origin] = NO_ORIGINS,
    within: frozenset[str] | None = None,
) -> Changes:
    """Compare an index with a folder: size and time first; if only the time differs, the hash of the file decides.

    origins: where the images come from, by path. An image that has none keeps the one in the index.
    within: only images at these paths can be gone; None = any image that was not found is gone.
    """
    images = {image.path: image for image in found.images}
    touched: dict[int, ImageFile] = {}
    gone: list[int] = []
    unknown = {bad.path for bad in found.unreadable if bad.keep}
    known, kept, changed = 0, 0, []
    for key, old in store.images():
        new = images.pop(old.path, None)
        if new is None:
            if unknown and not unknown.isdisjoint([old.path, *map(str, PurePosixPath(old.path).parents)]):
                kept += 1
            elif within is None or old.path in within:
                gone.append(key)
        elif (new.size, new.mtime_ns) == (old.size, old.mtime_ns):
            if old.path in origins and origins[old.path] != store.origin(key):
                touched[key] = old
            else:
                known += 1
        elif new.size == old.size and (digest := sha256_of(root / old.path)) == old.sha256:
            touched[key] = ImageFile(*new, digest)
        else:
            changed.append(old.path)
    return Changes(sorted([*images, *changed]), touched, gone, known, kept)


def sha256_of(path: Path) -> bytes | None:
    """Hash of a file's content; None if it cannot be read. Encoding the picture reports the error."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def _names(root: Path, errors: list[OSError], other: Counter[str]) -> Iterator[str]:
    """Paths of the pictures. Adds to `errors` each folder that cannot be listed, to `other` pictures of other kinds."""
    for folder, _, files in os.walk(root, onerror=errors.append):
        for file in files:
            suffix = os.path.splitext(file)[1].lower()
            if suffix in SUFFIXES:
                yield _posix(os.path.join(folder, file), root)
            elif suffix in OTHER_PICTURES:
                other[suffix] += 1


def _posix(path: str, root: Path) -> str:
    return PurePosixPath(os.path.relpath(path, root)).as_posix()


def _look_at(root: Path, paths: Iterable[str]) -> Found:
    images, unreadable = [], []
    for path in paths:
        try:
            path.encode()
            status = os.stat(root / path)
            images.append(FoundImage(path, status.st_size, status.st_mtime_ns))
        except UnicodeEncodeError:
            unreadable.append(Unreadable(repr(path), "its name is not valid UTF-8; rename it"))
        except OSError as error:
            unreadable.append(not_looked_at(path, error))
    return Found(images, unreadable, Counter())


def not_looked_at(path: str, error: OSError) -> Unreadable:
    """The entry for a failed access. Only a missing file is gone; after a disk error, say, it may still exist."""
    gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return Unreadable(shown, error.strerror or str(error), keep=not gone)
