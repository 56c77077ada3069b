"""Which images a folder holds, and what has changed since they were indexed. Knows no torch."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gallery.segments import ImageFile
from gallery.store import Store
from utils.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


class FoundImage(NamedTuple):
    """A file that is to be an image of the index."""

    path: str  # relative to the folder, with slashes
    size: int  # bytes
    mtime_ns: int


class Unreadable(NamedTuple):
    path: str  # of a file, or of a folder that cannot be listed ("." = the root)
    reason: str
    keep: bool = False  # it may well be there still: what the index has of it, or of what lies below it, stays


class Found(NamedTuple):
    images: list[FoundImage]  # sorted by path
    unreadable: list[Unreadable]


class Changes(NamedTuple):
    """What it takes to bring an index to the state of a folder."""

    encode: list[str]  # paths of new images, and of those with other content than before
    touched: dict[int, ImageFile]  # by key: the time of the file is another one, its content is not
    gone: list[int]  # keys of images that are no longer there
    unchanged: int
    kept: int  # images that could not be looked at, so that nobody knows whether they are there


def walk(root: Path) -> Found:
    """All pictures below a folder, by the ends of their names; folders behind links are not followed.

    Raises: UserError if there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    errors: list[OSError] = []
    found = _look_at(root, sorted(_names(root, errors)))
    folders = [not_looked_at(_posix(error.filename, root), error) for error in errors]
    return found._replace(unreadable=[*folders, *found.unreadable])


def listed(root: Path, paths: Iterable[str]) -> Found:
    """The pictures of a list of paths, each relative to the folder or absolute within it; those missing are unreadable.

    Raises: UserError for a path outside of the folder.
    """
    return _look_at(root, sorted({relative(root, path) for path in paths}))


def relative(root: Path, path: str) -> str:
    """A path as the index knows it. Raises: UserError if it is not below the root."""
    inside = os.path.relpath(os.path.join(os.path.abspath(root), path), os.path.abspath(root))
    if inside == ".":
        return ""
    if PurePosixPath(inside).parts[0] == "..":
        raise UserError(f"{path} is not below {root}, the folder that this index is of")
    return PurePosixPath(inside).as_posix()


def compare(store: Store, found: Found, root: Path, *, within: frozenset[str] | None = None) -> Changes:
    """What differs between an index and a folder: by size and time first, then by the file's hash.

    within: the images that the comparison is about; None = all, so that those which are not found are gone.
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
            known += 1
        elif new.size == old.size and (digest := sha256_of(root / old.path)) == old.sha256:
            touched[key] = ImageFile(*new, digest)
        else:
            changed.append(old.path)
    return Changes(sorted([*images, *changed]), touched, gone, known, kept)


def sha256_of(path: Path) -> bytes | None:
    """Of a file's content; None if it cannot be read, which reading it as a picture will report."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def _names(root: Path, errors: list[OSError]) -> Iterator[str]:
    """errors: gets those of folders that cannot be listed."""
    for folder, _, files in os.walk(root, onerror=errors.append):
        for file in files:
            if os.path.splitext(file)[1].lower() in SUFFIXES:
                yield _posix(os.path.join(folder, file), root)


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
    return Found(images, unreadable)


def not_looked_at(path: str, error: OSError) -> Unreadable:
    """A disk that fails, or a right that is missing, is no sign that a picture was deleted."""
    gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return Unreadable(shown, error.strerror or str(error), keep=not gone)
