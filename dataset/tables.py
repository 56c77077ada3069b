"""Tables of annotations: CSV and JSON Lines with the standard library, Parquet where pandas or pyarrow is installed."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from dataset.records import read_text
from utils.errors import UserError

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
DELIMITERS = (",", ";", "\t")  # a spreadsheet saves CSV with semicolons where the comma is the decimal sign


class Row(NamedTuple):
    number: int  # as a spreadsheet counts (the header of a CSV file is row 1); in JSON Lines, the line
    cells: dict[str, Any]  # by column name


def read_table(path: Path) -> list[Row]:
    """Read the rows of a table; empty lines are left out.

    Raises: UserError with one line that names the file, and the row where there is one, and says what to do.
    """
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    kind = path.suffix.lower()
    if kind not in readers:
        hint = "; save the spreadsheet as CSV (UTF-8)" if kind in (".xlsx", ".xls", ".ods") else ""
        raise UserError(f"{path}: a table must be one of {', '.join(KINDS)}{hint}")
    rows = readers[kind](path)
    if not rows:
        raise UserError(f"{path}: the table is empty: it needs a row for each caption")
    return rows


def _read_csv(path: Path) -> list[Row]:
    text = read_text(path)
    header_line = next((line for line in _lines(text) if line.strip()), "")
    delimiter = max(DELIMITERS, key=header_line.count)  # the first of them where there is one column
    try:
        lines = list(csv.reader(_lines(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}: broken CSV: {error}; write a quote within quotes twice") from None
    filled = [(number, cells) for number, cells in enumerate(lines, start=1) if any(cell.strip() for cell in cells)]
    if not filled:
        return []
    names = [name.strip() for name in filled[0][1]]
    for name, times in Counter(names).items():
        if name and times > 1:  # without a name there may be several: a spreadsheet saves columns that were emptied
            raise UserError(f"{path}: {times} columns are called {name!r}: rename all but one, or delete them")
    for number, cells in filled[1:]:
        if len(cells) != len(names):
            message = f"{path}: row {number} has {len(cells)} cells, but the header has {len(names)}"
            raise UserError(f"{message}: put a caption that holds {delimiter!r} into double quotes")
    return [Row(number, dict(zip(names, cells, strict=True))) for number, cells in filled[1:]]


def _lines(text: str) -> io.StringIO:
    """The lines, ended as csv has it. str.splitlines would end one at U+2028 or a form feed within a caption, too."""
    return io.StringIO(text, newline="")


def _read_json_lines(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(cells, dict):
            raise UserError(f'{path}: line {number} must be an object, such as {{"image": ..., "caption": ...}}')
        rows.append(Row(number, cells))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        entries = _parquet_entries(path)
    except ImportError:
        raise UserError(
            f"{path}: reading Parquet needs pyarrow: 'pip install pyarrow', or save the table as .csv or .jsonl"
        ) from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path}: not a Parquet file that can be read: {str(error).splitlines()[0]}") from None
    return [Row(number, cells) for number, cells in enumerate(entries, start=1)]


def _parquet_entries(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        import pandas  # with another engine than pyarrow

        return pandas.read_parquet(path).to_dict("records")
    return parquet.read_table(path).to_pylist()
