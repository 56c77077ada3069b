"""Data of one's own: a table of images, people and captions, turned into the records of a benchmark.

The table has the columns image, person_id, caption and, if people are split already, split (docs/data.md).
"""

import ast
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from dataset.benchmarks import CUSTOM
from dataset.tables import Row
from utils.errors import UserError

NEEDED = ("image", "person_id", "caption")
COLUMNS = (*NEEDED, "split")
SHARES = (0.8, 0.1, 0.1)  # of people, by split
PEOPLE_FILE = "people.json"  # in processed_data/: the number of each person whose id is no number
_SIDE_BY_SIDE = re.compile(r"(?<=['\"])\s+(?=['\"])")  # between two strings without a comma


class Entries(NamedTuple):
    """Records as in an annotation file, in the order of the table."""

    entries: list[Any]
    numbers: list[int]  # of the entries, from 0; in a table, the first row of each
    people: dict[str, int]  # the table's ids and their numbers; empty: the ids are numbers and stay as they are
    repeated: Sequence[int] = ()  # rows with a caption that the entry has already, and which is left out


def parse_columns(pairs: Sequence[str], table: Path) -> dict[str, str]:
    """Turn image=path person_id=pid into the name of each column. Raises: UserError for anything else."""
    names = {column: column for column in COLUMNS}
    for pair in pairs:
        column, equals, name = pair.partition("=")
        if column not in names or not equals or not name:
            raise UserError(
                f"--columns {pair}: write NAME=COLUMN OF {table.name}, with NAME one of {', '.join(COLUMNS)}"
            )
        names[column] = name
    return names


def entries_of(
    rows: list[Row],
    names: dict[str, str],
    table: Path,
    *,
    shares: Sequence[float] | None,
    seed: int,
    keep_repeated: bool = False,
) -> Entries:
    """Make one entry of all rows with the same image, person and split.

    A caption that the entry has already is left out, unless keep_repeated.
    Without a split column, people are split at random by shares (None: SHARES); the order of the rows does not matter.
    Raises: UserError for a missing column or cell, and for shares that are none or that the table contradicts.
    """
    has_split = _check_columns(rows, names, table)
    if has_split and shares is not None:
        column = names["split"]
        raise UserError(f"{table}: its column {column!r} splits the people already: leave --split out, or the column")
    ids = [_text(row, names["person_id"], table) for row in rows]
    images = _relative_to_imgs([_text(row, names["image"], table).replace("\\", "/") for row in rows])
    splits = {} if has_split else split_people(ids, shares or SHARES, seed)
    numbers, are_new = _number(ids)
    merged: dict[tuple[str, str, str], dict[str, Any]] = {}
    first_rows, repeated = [], []
    for row, person, image in zip(rows, ids, images, strict=True):
        split = _text(row, names["split"], table) if has_split else splits[person]
        key = (image, person, split)
        if key not in merged:
            merged[key] = {"id": numbers[person], CUSTOM.path_key: image, "captions": [], "split": split}
            first_rows.append(row.number)
        own = merged[key]["captions"]
        for caption in _captions(row, names["caption"], table):
            if caption in own and not keep_repeated:
                repeated.append(row.number)
            else:
                own.append(caption)
    return Entries(list(merged.values()), first_rows, numbers if are_new else {}, repeated)


def split_people(ids: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    """Split people at random: the split of each. A share above 0 gets at least one person.

    Raises: UserError if the shares are no three numbers that add up to 1, or if there are too few people.
    """
    are_shares = len(shares) == 3 and min(shares) >= 0 and shares[0] > 0 and math.isclose(sum(shares), 1)
    if not are_shares:
        told = " ".join(f"{share:g}" for share in shares)
        raise UserError(f"--split {told}: give shares of train, val and test that add up to 1, such as 0.8 0.1 0.1")
    people = sorted(set(ids))
    wanted = sum(share > 0 for share in shares)
    if len(people) < wanted:
        raise UserError(f"{len(people)} people cannot be split into {wanted} splits: add people, or set a share to 0")
    Random(seed).shuffle(people)
    held_out = [max(1, round(share * len(people))) if share else 0 for share in shares[1:]]
    while sum(held_out) >= len(people):
        held_out[held_out.index(max(held_out))] -= 1
    val, test = held_out
    splits = [*["val"] * val, *["test"] * test, *["train"] * (len(people) - val - test)]
    return dict(zip(people, splits, strict=True))


def _check_columns(rows: list[Row], names: dict[str, str], table: Path) -> bool:
    """Whether there is a split column. Raises: UserError for a missing column."""
    found = list(dict.fromkeys(name for row in rows for name in row.cells))
    for column in NEEDED:
        if names[column] not in found:
            raise UserError(
                f"{table}: no column {names[column]!r}; it has {', '.join(map(repr, found))}: "
                f"rename one, or name it by --columns {column}=NAME"
            )
    if names["split"] != "split" and names["split"] not in found:
        raise UserError(f"{table}: no column {names['split']!r}; it has {', '.join(map(repr, found))}")
    return names["split"] in found


def _text(row: Row, column: str, table: Path) -> str:
    value = row.cells.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as Parquet stores integers beside empty cells
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        what = "nothing" if value is None or value == "" else repr(value)
        raise UserError(f"{table}: row {row.number} has {what} as {column!r}: fill the cell in, or delete the row")
    return str(value).strip()


def _captions(row: Row, column: str, table: Path) -> list[str]:
    value = row.cells.get(column)
    listed = value if isinstance(value, list) else _listed(value)
    captions = [value] if listed is None else listed
    if not all(caption is None or isinstance(caption, str) for caption in captions):
        raise UserError(f"{table}: row {row.number} has {value!r} as {column!r} instead of a caption or a list of them")
    return [caption or "" for caption in captions]


def _listed(value: Any) -> list[str] | None:
    """The captions of a list in a cell of text: as JSON, or as pandas writes it. None: the cell is no such list."""
    if not isinstance(value, str) or not value.strip().startswith("["):
        return None
    for read in (json.loads, _python_list):
        try:
            found = read(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # a caption in brackets
            continue
        if isinstance(found, list) and all(isinstance(caption, str) for caption in found):
            return found
    return None


def _python_list(text: str) -> Any:
    """The value of a Python literal. pandas writes an array without commas, and Python would join its strings."""
    return ast.literal_eval(_SIDE_BY_SIDE.sub(", ", text.strip()))


def _relative_to_imgs(images: list[str]) -> list[str]:
    """Paths may start at DIR/imgs or at DIR itself, if all of them do."""
    prefix = "imgs/"
    if all(image.removeprefix("./").startswith(prefix) for image in images):
        return [image.removeprefix("./").removeprefix(prefix) for image in images]
    return images


def _number(ids: Sequence[str]) -> tuple[dict[str, int], bool]:
    """The number of each person, and whether it is a new one: ids that are numbers stay, unless two are the same."""
    people = list(dict.fromkeys(ids))
    if all(person.isascii() and person.isdigit() and len(person) <= 18 for person in people):
        numbers = {person: int(person) for person in people}
        if len(set(numbers.values())) == len(people):
            return numbers, False
    return {person: number for number, person in enumerate(sorted(people), start=1)}, True
