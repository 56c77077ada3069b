"""What an index consists of: manifest.json, the one file that decides.

It is replaced in one step, after everything that it names is on disk; whatever else lies in the folder does not belong
to the index. Knows no torch.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError

FORMAT = "mamba-tbps index 1"
FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointStamp:
    """Which weights made the vectors. size (bytes) and mtime_ns spare hashing the file each time."""

    path: str
    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class SegmentEntry:
    """A folder of rows; removed: numbers of the rows that no longer count."""

    serial: int
    rows: int
    removed: list[int] = field(default_factory=list)

    @property
    def live(self) -> int:
        return self.rows - len(self.removed)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of an index but its rows. Only `search.py index`, `add` and `remove` make a new one."""

    name: str  # drawn when the index is made; what a vector database knows it by
    root: str  # folder that the paths of the images are relative to
    checkpoint: CheckpointStamp
    config: dict[str, Any]  # of the model
    width: int  # of a vector
    token_shape: list[int] | None  # tokens and width of an image's stored tokens; None: they are not stored
    engine: str | None = None  # URL of a Milvus server; None: FAISS
    segments: list[SegmentEntry] = field(default_factory=list)
    next_serial: int = 1
    excluded: list[str] = field(default_factory=list)  # paths that were removed by hand and stay out
    calibration: dict[str, Any] | None = None
    format: str = FORMAT


def read_manifest(folder: Path) -> Manifest:
    """Raises: UserError where there is no index, or one that this program cannot read."""
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


def version_of(folder: Path) -> tuple[int, int, int]:
    """Another one after every change of the index, without reading it. Raises: UserError where there is no index."""
    try:
        status = os.stat(folder / FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise _no_index(folder) from None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _no_index(folder: Path) -> UserError:
    return UserError(f"{folder} is not an index; make one: python search.py index --index {folder} ...")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make this the index, in one step that survives a power cut."""
    replace_json(folder / FILE, asdict(manifest))


def replace_json(path: Path, values: dict[str, Any]) -> None:
    """The old content or the new one, also after a power cut."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk, not only the files behind them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
