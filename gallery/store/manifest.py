"""manifest.json, the one file that says what belongs to an index.

A change writes new files first and then replaces the manifest in one step. Files that the manifest does not name are
no part to the index.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gallery.store.durable import replace_json
from utils.errors import UserError

FORMAT = "mamba-tbps index 1"
FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointStamp:
    """The weights that made the vectors. Unchanged size (bytes) and mtime_ns save hashing the file again."""

    path: str
    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class SegmentEntry:
    """One segment: its number, its rows, and the numbers of the rows that were removed, ascending."""

    serial: int
    rows: int
    removed: list[int] = field(default_factory=list)
    origins: bool = False  # whether it holds where its rows come from

    @property
    def live(self) -> int:
        return self.rows - len(self.removed)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything about an index except its rows. The fields are the keys of manifest.json."""

    name: str  # drawn at random when the index is made; names its collection in Milvus
    root: str  # folder that the paths of the images are relative to
    checkpoint: CheckpointStamp
    config: dict[str, Any]  # the model's configuration, as in its checkpoint
    width: int  # of a vector
    token_shape: list[int] | None  # (K, D) of an image's stored tokens; None = tokens are not stored
    engine: str | None = None  # URL of a Milvus server; None = FAISS
    segments: list[SegmentEntry] = field(default_factory=list)
    next_serial: int = 1
    excluded: list[str] = field(default_factory=list)  # paths that were removed by hand and stay out
    to_delete: list[str] = field(default_factory=list)  # paths of image files whose deletion was begun
    calibration: dict[str, Any] | None = None  # the fields of gallery.search.calibration.Calibration
    format: str = FORMAT


def read_manifest(folder: Path) -> Manifest:
    """Raises: UserError if there is no index, or if this program cannot read it."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise UserError(f"{folder} is an index of another version ({values['format']}): index the images again")
        values["checkpoint"] = CheckpointStamp(**values["checkpoint"])
        values["segments"] = [SegmentEntry(**entry) for entry in values["segments"]]
        return Manifest(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_index(folder) from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / FILE} is damaged ({error}): delete the folder and index the images again") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit: from now on, the index is what this manifest says.

    Keys that earlier versions do not know are left out if they say nothing, so that these versions read such an index.
    """
    values = asdict(manifest)
    for entry in values["segments"]:
        if not entry["origins"]:
            del entry["origins"]
    if not values["to_delete"]:
        del values["to_delete"]
    replace_json(folder / FILE, values)


def version_of(folder: Path) -> tuple[int, int, int]:
    """A value that differs after every commit; does not read the manifest. Raises: UserError if there is no index."""
    try:
        status = os.stat(folder / FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_index(folder) from None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _no_index(folder: Path) -> UserError:
    return UserError(f"{folder} is not an index; make one: python search.py index --index {folder} ...")
