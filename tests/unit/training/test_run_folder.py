"""The run folder: what is written, that it is replaced whole, and that a resumed log equals an uninterrupted one."""

import json
import subprocess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.paths import CONFIGS
from training.run_folder import MetricsLog, _commit, create_run_folder, versions
from utils.config import load_config
from utils.files import replacing, save_json

BASE = CONFIGS / "base.yaml"


def test_folder_holds_merged_config_and_versions(tmp_path):
    config = load_config(BASE, ["train.seed=7"])
    create_run_folder(tmp_path / "a" / "run", config)
    assert load_config(tmp_path / "a" / "run" / "config.yaml") == config
    told = json.loads((tmp_path / "a" / "run" / "versions.json").read_text())
    assert told["seed"] == 7
    assert told["packages"]["torch"] == versions()["packages"]["torch"] is not None
    assert {"python", "platform", "command", "commit", "gpu"} <= told.keys()
    assert sorted(path.name for path in (tmp_path / "a" / "run").iterdir()) == ["config.yaml", "versions.json"]


def test_commit_and_changes_of_a_repository(tmp_path):
    assert _commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "a").write_text("1")
    for command in (["init", "-q"], ["add", "a"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], check=True)
    commit = _commit(tmp_path)
    assert commit is not None
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert _commit(tmp_path) == f"{commit}-dirty"


def test_failed_write_leaves_the_old_file(tmp_path):
    save_json(tmp_path / "metrics.json", {"R1": 50.0})

    def full_disk() -> None:
        with replacing(tmp_path / "metrics.json") as path:
            path.write_text("half a fi")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        full_disk()
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"R1": 50.0}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def log_epochs(folder: Path, first: int, last: int, *, enabled: bool = True) -> None:
    log = MetricsLog(folder, first_epoch=first, first_step=first * 10, enabled=enabled)
    for epoch in range(first, last):
        log.write_scalars({"train/itc": epoch / 4}, step=epoch * 10)
        log.write_epoch(epoch, {"train/itc": epoch / 4, "val/R@1": 50.0, "val/mINP": float("nan")})
    log.close()


def test_one_line_per_epoch(tmp_path):
    log_epochs(tmp_path, 0, 2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"epoch": e, "train/itc": e / 4, "val/R@1": 50.0, "val/mINP": None} for e in (0, 1)]


def test_resumed_log_equals_uninterrupted_one(tmp_path):
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    log_epochs(tmp_path / "whole", 0, 4)
    log_epochs(tmp_path / "resumed", 0, 3)  # the checkpoint is of epoch 2, the log went on
    with (tmp_path / "resumed" / "log.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tra')  # ... and broke off
    log_epochs(tmp_path / "resumed", 2, 4)
    assert (tmp_path / "resumed" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    events = EventAccumulator(str(tmp_path / "resumed" / "tensorboard")).Reload().Scalars("train/itc")
    assert [(event.step, event.value) for event in events] == [(0, 0.0), (10, 0.25), (20, 0.5), (30, 0.75)]


def test_new_run_in_an_old_folder_starts_a_new_log(tmp_path):
    log_epochs(tmp_path, 0, 3)
    log_epochs(tmp_path, 0, 1)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_other_processes_write_nothing(tmp_path):
    log_epochs(tmp_path, 0, 2, enabled=False)
    assert list(tmp_path.iterdir()) == []
