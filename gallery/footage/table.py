"""The table of a folder of crops: crops.parquet, one row per crop, columns as in SCHEMA.

pyarrow is loaded when a table is read or written: a folder without a table needs none.
"""

import math
from collections.abc import Container, Iterable, Iterator
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


def read_table(folder: Path, wanted: Container[str] | None = None) -> dict[str, Origin]:
    """Where the crops of a folder come from, by their paths relative to it. Empty if the folder has no table.

    wanted: paths of the crops that matter; None = all.
    Raises: UserError if the table cannot be read.
    """
    return {crop.image: crop.origin for crop in read_rows(folder / FILE) if wanted is None or crop.image in wanted}


def read_rows(path: Path) -> Iterator[Crop]:
    """The rows of one file, with ROWS_AT_A_TIME rows in memory; none if there is no such file.

    A score or a time that is not a number is None. Raises: UserError if the file is not such a table.
    """
    if not path.exists():
        return
    pyarrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            known: dict[Any, Any] = {}
            if getattr(file.schema_arrow.field("clock").type, "tz", None):
                raise UserError(
                    f"{path}: the column clock has a time zone; write it without one, in the camera's local time"
                )
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=list(SCHEMA)):
                rows = pyarrow.Table.from_batches([batch]).select(list(SCHEMA)).cast(_schema(pyarrow), safe=False)
                for values in zip(*rows.to_pydict().values(), strict=True):
                    yield _crop(dict(zip(SCHEMA, values, strict=True)), known)
    except UserError:  # a ValueError too
        raise
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


def _crop(row: dict[str, Any], known: dict[Any, Any]) -> Crop:
    """known: values that many rows share; each of them is kept once."""
    size = (row["frame_width"], row["frame_height"])
    origin = Origin(
        source=known.setdefault(row["source"], row["source"]),
        frame=row["frame"],
        time_s=_number(row["time_s"]),
        clock=row["clock"],
        box=(row["x0"], row["y0"], row["x1"], row["y1"]),
        frame_size=known.setdefault(size, size),
        score=_number(row["score"]),
        track=row["track"],
    )
    return Crop(row["image"], origin)


def _number(value: float | None) -> float | None:
    """NaN is None: it equals nothing, not even itself, so a row with it would always count as changed."""
    return None if value is None or math.isnan(value) else value
