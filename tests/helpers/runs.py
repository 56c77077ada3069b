"""Run train.py and eval.py as their command lines do, inside the test's process; data folders made for one test."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import eval as evaluation
import train
from tests.helpers.benchmark import read_split
from utils.log import one_line_errors

train_command = one_line_errors(train.main)
eval_command = one_line_errors(evaluation.main)


def train_and_record(arguments: list[str]) -> list[dict[str, float]]:
    """Train, which must end well; returns the losses of each step, digit for digit."""
    steps: list[dict[str, float]] = []
    own_step = train.train_step

    def recorded(*args: Any) -> dict[str, Any]:
        losses = own_step(*args)
        steps.append({key: loss.item() for key, loss in losses.items()})
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train_step", recorded)
        assert train_command(arguments) == 0
    return steps


def refused(command: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with code 2 and one line for the user; returns the line."""
    capsys.readouterr()
    assert command(arguments) == 2
    written = capsys.readouterr().err
    assert "Traceback" not in written
    messages = [line for line in written.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1
    assert written.endswith(messages[0] + "\n")  # nothing runs over into another line
    return messages[0]


def copy_of(root: Path, folder: Path) -> Path:
    """A data folder that a test may change; without the caches."""
    return Path(shutil.copytree(root, folder, ignore=shutil.ignore_patterns("cache")))


def write_split(root: Path, split: str, records: Iterable[dict]) -> None:
    (root / "processed_data" / f"{split}.json").write_text(json.dumps(list(records)))


def training_pairs_as_test(root: Path, folder: Path) -> Path:
    """A data folder with one image of each train person, which are also its val and test people."""
    copy = copy_of(root, folder)
    first = {record["id"]: record for record in reversed(read_split(root, "train"))}
    for split in ("train", "val", "test"):
        write_split(copy, split, first.values())
    return copy


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """log.jsonl without the times."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]
