"""Writes that survive a power cut: the files of an index are on disk before the manifest names them."""

import json
import os
from pathlib import Path
from typing import Any

from utils.files import replacing


def replace_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON values; after a power cut the file holds either all of the old content or all of the new."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk; syncing the files themselves does not save their names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
