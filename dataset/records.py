"""Annotation records, each one image of a person with its captions: reading and checking the JSON lists of them.

A record is an object with `id` (the person: an integer, or its digits as a string), an image path relative to imgs/,
and `captions` (a list of one or more strings). Other keys are ignored. Records are counted from 0.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from dataset.benchmarks import SPLITS
from utils.errors import UserError
from utils.file_kinds import Start, what_came_instead

HOLD_OUT_EVERY = 20  # every 20th train person is held out if a benchmark has no validation split
NAME_FILE = "benchmark.txt"  # in processed_data/, the benchmark's name


class Record(NamedTuple):
    person_id: int
    file_path: str  # relative to imgs/
    captions: tuple[str, ...]  # as annotated, not cleaned


class RecordError(UserError):
    """What is wrong with one record. `kind` groups similar errors."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_json_list(path: Path) -> list[Any]:
    """Read a JSON file that must hold a list: UTF-8 (with or without a byte order mark) or UTF-16.

    Raises: UserError with one line that names the file and the place where the text stops being JSON.
    """
    text = read_text(path)
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        instead = what_came_instead(Start.of(path)) if text.strip() else None
        if instead:
            raise UserError(f"{path}: not a JSON file (it starts with {text.strip()[:20]!r}): {instead}") from None
        place = f"line {error.lineno}, column {error.colno} (character {error.pos} of {len(text)})"
        raise UserError(f"{path}: {_why_not_json(text, error)}: {error.msg} at {place}") from None
    if not isinstance(entries, list):
        raise UserError(f"{path}: the file must hold a list of records, but it holds {_kind_of(entries)}")
    return entries


def parse_record(entry: Any, path_key: str) -> Record:
    """Turn a JSON value into a Record. Raises: RecordError whose message continues "record 17 ..."."""
    if not isinstance(entry, dict):
        message = f"is {_kind_of(entry)} instead of an object with id, {path_key} and captions"
        raise RecordError("not an object", message)
    return Record(_person_id(entry), _file_path(entry, path_key), _captions(entry))


def read_records(root: Path, split: str) -> list[Record]:
    """Read root/processed_data/{split}.json.

    Raises: UserError for an unknown split or a broken file; FileNotFoundError if data_process.sh has not run yet.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    path = Path(root) / "processed_data" / f"{split}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: run 'bash shell/data_process.sh NAME {root}' (docs/data.md)")
    records = []
    for index, entry in enumerate(read_json_list(path)):
        try:
            records.append(parse_record(entry, "file_path"))
        except RecordError as error:
            raise UserError(f"{path}: record {index} {error}") from None
    return records


def check_benchmark(root: Path, name: str) -> None:
    """Raises: UserError if root was prepared as another benchmark. Folders that other programs prepared do not tell."""
    path = root / "processed_data" / NAME_FILE
    found = path.read_text(encoding="utf-8").strip() if path.is_file() else name
    if found != name:
        raise UserError(
            f"{root} holds {found}, but dataset.name is {name}: set dataset.name to {found}, or dataset.root to "
            f"the folder of {name}"
        )


def hold_out_validation(train: list[Record]) -> tuple[list[Record], list[Record]]:
    """Split train records into (train, validation) by person, for benchmarks without validation people (ICFG-PEDES).

    Every HOLD_OUT_EVERY-th person is held out with all records, in the order of the ids, starting with the smallest.
    The choice does not depend on the seed, the number of processes or the order of the records.
    Raises: UserError if train has fewer than two people.
    """
    people = sorted({record.person_id for record in train})
    if len(people) < 2:
        raise UserError(f"cannot hold out people for validation: train has {len(people)}; set eval.select_on to test")
    held_out = set(people[::HOLD_OUT_EVERY])
    return (
        [record for record in train if record.person_id not in held_out],
        [record for record in train if record.person_id in held_out],
    )


def read_text(path: Path) -> str:
    """Text in UTF-8 (with or without a byte order mark) or UTF-16 with one. Raises: UserError for anything else."""
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte {error.start}: {error.reason}"
        raise UserError(f"{path}: not {encoding} text at {place}; save it as UTF-8") from None


def _why_not_json(text: str, error: json.JSONDecodeError) -> str:
    body = text.strip()
    if not body:
        return "the file is empty"
    if not body.startswith(("[", "{")):
        return f"not a JSON file (it starts with {body[:20]!r})"
    closing = "]" if body.startswith("[") else "}"
    if not body.endswith(closing) or error.pos >= len(text.rstrip()):
        return "the JSON is cut off, download or copy the file again"
    return "broken JSON"


def _kind_of(value: Any) -> str:
    """Name the JSON type of a value, with an article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _person_id(entry: dict[str, Any]) -> int:
    if "id" not in entry:
        raise RecordError("no id", "has no 'id'")
    value = entry["id"]
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    if type(value) is not int or not 0 <= value < 2**63:
        raise RecordError("bad id", f"has the id {_shown(value)}, which is not an integer >= 0")
    return value


def _file_path(entry: dict[str, Any], path_key: str) -> str:
    if path_key not in entry:
        other = next((key for key in ("file_path", "img_path") if key in entry), None)
        hint = f" but {other!r}: is it another benchmark's file?" if other else ""
        raise RecordError("no image path", f"has no {path_key!r}{hint}")
    value = entry[path_key]
    if not isinstance(value, str) or not value.strip():
        raise RecordError("bad image path", f"has {_shown(value)} as {path_key!r} instead of an image path")
    if value.startswith(("/", "\\")) or re.match("[A-Za-z]:", value) or ".." in re.split(r"[/\\]", value):
        raise RecordError(
            "path outside imgs/", f"has the path {value!r}, which leaves the image folder: make it relative to imgs/"
        )
    return value


def _captions(entry: dict[str, Any]) -> tuple[str, ...]:
    if "captions" not in entry:
        raise RecordError("no captions", "has no 'captions'")
    value = entry["captions"]
    if not isinstance(value, list) or not all(isinstance(caption, str) for caption in value):
        raise RecordError("bad captions", f"has {_shown(value)} as 'captions' instead of a list of strings")
    if not value:
        raise RecordError("no captions", "has an empty list of captions")
    return tuple(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
