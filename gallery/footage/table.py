"""The table of a folder of crops: crops.parquet, one row per crop, columns as in SCHEMA.

pyarrow is loaded when a table is read or written: a folder without a table needs none.
"""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gallery.footage.origin import Origin
from utils.errors import UserError
from utils.extras import optional
from utils.files import replacing

if TYPE_CHECKING:
    import pyarrow

FILE = "crops.parquet"
ROWS_AT_A_TIME = 2**15
SCHEMA = {  # column -> its type in Arrow, and whether it may be null
    "image": ("string", False),  # path of the crop relative to the folder, with slashes
    "source": ("string", False),
    "frame": ("int64", False),
    "time_s": ("double", True),
    "clock": ("timestamp[ms]", True),
    "x0": ("float", False),
    "y0": ("float", False),
    "x1": ("float", False),
    "y1": ("float", False),
    "frame_width": ("int32", False),
    "frame_height": ("int32", False),
    "score": ("float", True),
    "track": ("int64", True),
}


class Crop(NamedTuple):
    """A row of the table."""

    image: str
    origin: Origin


def read_table(folder: Path) -> dict[str, Origin]:
    """Where the crops of a folder come from, by their paths relative to it. Empty if the folder has no table.

    Raises: UserError if the table cannot be read.
    """
    path = folder / FILE
    return {crop.image: crop.origin for crop in read_rows(path)} if path.exists() else {}


def read_rows(path: Path) -> list[Crop]:
    """The rows of one file. Raises: UserError if it is not such a table."""
    _, parquet = _pyarrow()
    try:
        rows = parquet.read_table(path, columns=list(SCHEMA)).to_pylist()
        return [_crop(row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:  # pyarrow's errors are ValueErrors and OSErrors
        raise UserError(f"{path} is not a table of crops ({error}); `search.py crop` writes one") from error


def write_rows(path: Path, crops: Iterable[Crop]) -> int:
    """Write a file in one step, with ROWS_AT_A_TIME rows in memory. Returns: how many rows."""
    pyarrow, parquet = _pyarrow()
    schema, rows, count = _schema(pyarrow), map(_row, crops), 0
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        while some := list(islice(rows, ROWS_AT_A_TIME)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _pyarrow() -> tuple[Any, Any]:
    return optional("pyarrow", FILE), optional("pyarrow.parquet", FILE)


def _schema(pyarrow: Any) -> "pyarrow.Schema":
    types = {"timestamp[ms]": pyarrow.timestamp("ms")}
    return pyarrow.schema(
        [
            pyarrow.field(name, types.get(kind) or pyarrow.type_for_alias(kind), nullable=nullable)
            for name, (kind, nullable) in SCHEMA.items()
        ]
    )


def _row(crop: Crop) -> dict[str, Any]:
    origin = crop.origin
    x0, y0, x1, y1 = origin.box
    width, height = origin.frame_size
    return {
        "image": crop.image,
        "source": origin.source,
        "frame": origin.frame,
        "time_s": origin.time_s,
        "clock": origin.clock,
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "frame_width": width,
        "frame_height": height,
        "score": origin.score,
        "track": origin.track,
    }


def _crop(row: dict[str, Any]) -> Crop:
    origin = Origin(
        source=row["source"],
        frame=row["frame"],
        time_s=row["time_s"],
        clock=row["clock"],
        box=(row["x0"], row["y0"], row["x1"], row["y1"]),
        frame_size=(row["frame_width"], row["frame_height"]),
        score=row["score"],
        track=row["track"],
    )
    return Crop(row["image"], origin)
