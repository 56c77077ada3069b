"""SynthPedes on disk: image paths and records as in the benchmarks or in a table, and the note of what a folder holds.

A folder holds the benchmark's annotation file, imgs/ and synthetic.json. The last one is written at the end, so a
folder without it is incomplete. While a benchmark is being drawn, synthetic.partial marks the folder as ours to clear.
"""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

from dataset.benchmarks import CUSTOM, Benchmark
from dataset.custom import COLUMNS
from dataset.synthpedes.people import Person
from utils.errors import UserError

NOTE, PARTIAL = "synthetic.json", "synthetic.partial"
_CUHK_NAMES = {
    "cam_a": "{person:05d}_{view:02d}.jpg",
    "cam_b": "{person:05d}_{view:02d}.jpg",
    "CUHK01": "{person:05d}{view:03d}.jpg",
    "CUHK03": "{person}_{camera}_{view}.jpg",
    "Market": "{person:05d}_c{camera}s1_{frame:06d}_{view:02d}.jpg",
    "test_query": "p{person}_s{image}.jpg",
    "train_query": "p{person}_s{image}.jpg",
}


def image_path(benchmark: Benchmark, split: str, person_id: int, view: int, image: int) -> str:
    """Path under imgs/ of a person's view. `image` counts through the benchmark, so that no folder stays empty."""
    random = Random(f"{person_id}/{view}")
    names = {
        "person": person_id,
        "view": view,
        "image": image,
        "camera": 1 + image % 6,
        "frame": random.randrange(10**4),
    }
    if benchmark.name == "ICFG-PEDES":
        return "{split}/{person:04d}/{person:04d}_{view:03d}_{camera:02d}_0303morning_{frame:04d}_0.jpg".format(
            split=split, **names
        )
    if not benchmark.image_folders:
        return "{person:04d}_c{camera}_{view:02d}{frame:04d}.jpg".format(**names)
    folder = benchmark.image_folders[image % len(benchmark.image_folders)]
    return f"{folder}/{_CUHK_NAMES[folder].format(**names)}"


def record(benchmark: Benchmark, split: str, person_id: int, path: str, captions: list[str]) -> dict[str, Any]:
    """Make one entry of the annotation file, with the extra key that the official files have."""
    entry: dict[str, Any] = {"split": split, "captions": captions, benchmark.path_key: path, "id": person_id}
    if benchmark.path_key == "file_path":
        entry["processed_tokens"] = [caption.lower().replace(",", "").replace(".", "").split() for caption in captions]
    return entry


def holds(out: Path, benchmark: Benchmark, made: dict[str, Any]) -> bool:
    """Whether a folder already holds the whole benchmark that `made` (version and arguments) describes.

    Raises: UserError if it holds another one, or files that are not ours.
    """
    raw_file, images, note = out / benchmark.raw_files[0], out / "imgs", out / NOTE
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder")
    if note.is_file():
        try:
            found = {key: json.loads(note.read_text(encoding="utf-8")).get(key) for key in made}
        except (ValueError, AttributeError):
            raise UserError(f"{note} is damaged: delete the folder {out}, or choose another one") from None
        if found != made:
            difference = _difference(found, made)
            raise UserError(f"{out} holds another SynthPedes ({difference}): delete it, or choose another folder")
        return raw_file.is_file() and images.is_dir()
    if (raw_file.exists() or images.exists()) and not (out / PARTIAL).exists():
        raise UserError(f"{out} holds files that are not SynthPedes: choose another folder")
    return False


def people_of(folder: Path, *, unlike_seed: int | None = None) -> dict[int, Person]:
    """All people of a SynthPedes by their ids.

    Raises: UserError if the folder holds none, or if it was drawn with that seed: views would be drawn alike.
    """
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        people = {entry["id"]: Person(**entry["attributes"]) for entry in note["people"]}
        seed = note["arguments"]["seed"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder} holds no complete SynthPedes: draw it with python -m dataset.synthpedes") from None
    if seed == unlike_seed:
        raise UserError(f"{folder} was drawn with seed {seed} as well: choose another seed")
    return people


def digest(people: dict[int, Person]) -> str:
    """A name for these people with these ids."""
    told = [[number, vars(person)] for number, person in people.items()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _difference(found: dict[str, Any], made: dict[str, Any]) -> str:
    """Return the first difference between two descriptions."""
    if found["version"] != made["version"]:
        return f"version {found['version']}, not {made['version']}"
    there, wanted = found["arguments"] or {}, made["arguments"]
    keys = [*wanted, *there]  # one may have been drawn apart from others
    return next(f"{key} {there.get(key)}, not {wanted.get(key)}" for key in keys if there.get(key) != wanted.get(key))


def clear(out: Path, benchmark: Benchmark) -> None:
    """Prepare a folder for drawing: remove the rest of an earlier, incomplete benchmark."""
    out.mkdir(parents=True, exist_ok=True)
    (out / PARTIAL).touch()
    (out / NOTE).unlink(missing_ok=True)
    (out / benchmark.raw_files[0]).unlink(missing_ok=True)
    shutil.rmtree(out / "imgs", ignore_errors=True)
    (out / "imgs").mkdir()


def finish(out: Path, benchmark: Benchmark, records: list[dict[str, Any]], note: dict[str, Any]) -> None:
    """Write the annotation file, and the note at the end."""
    raw_file = out / benchmark.raw_files[0]
    if benchmark is CUSTOM:
        _write_table(raw_file, records)
    else:
        raw_file.write_text(json.dumps(records), encoding="utf-8")
    unfinished = out / f"{NOTE}.tmp"
    unfinished.write_text(json.dumps(note, indent=1), encoding="utf-8")
    os.replace(unfinished, out / NOTE)
    (out / PARTIAL).unlink()


def _write_table(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a row for each caption."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for entry in records:
            for caption in entry["captions"]:
                writer.writerow([entry[CUSTOM.path_key], entry["id"], caption, entry["split"]])
