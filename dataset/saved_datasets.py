"""A folder that the Hugging Face package `datasets` saved to disk, read as a table; its pictures become files."""

import hashlib
from pathlib import Path
from typing import Any

from dataset.tables import Row
from utils.errors import UserError

JPEG = b"\xff\xd8"
SPLIT_NAMES = {"validation": "val"}  # theirs: ours


def read_saved(folder: Path, names: dict[str, str], images: Path) -> list[Row]:
    """Read the rows, numbered from 1 through all splits. Pictures within the folder are written to images, unchanged.

    Several splits become the split column. A single one does not: load_dataset calls data that nobody split "train".

    names: of the columns, as dataset.custom.parse_columns gives them.
    Raises: UserError with one line that says what to do.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{folder}: reading such a folder needs its package: 'pip install datasets'") from None
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        message = f"{folder}: not a folder that datasets' save_to_disk wrote"
        raise UserError(f"{message}: {str(error).splitlines()[0]}") from None
    rows: list[Row] = []
    parts = list(saved.items()) if isinstance(saved, dict) else [("", saved)]
    for split, part in parts:
        if isinstance(part.features.get(names["image"]), datasets.Image):
            part = part.cast_column(names["image"], datasets.Image(decode=False))  # as it was saved, not as pixels
        for cells in part:
            if len(parts) > 1:
                cells = {names["split"]: SPLIT_NAMES.get(str(split), split), **cells}
            if isinstance(picture := cells.get(names["image"]), dict):
                cells[names["image"]] = _write(picture, images)
            rows.append(Row(len(rows) + 1, cells))
    if not rows:
        raise UserError(f"{folder}: the data set is empty: it needs a row for each caption")
    return rows


def _write(picture: dict[str, Any], images: Path) -> str:
    """Write a picture under a name made from its bytes, the same for the rows of one picture; returns the name."""
    data = picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()
    name = hashlib.sha256(data).hexdigest()[:20] + (".jpg" if data.startswith(JPEG) else ".png")
    if not (images / name).is_file():
        images.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(data)
    return name
