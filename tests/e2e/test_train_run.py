"""Training from the command line: what a run leaves behind, that it learns, and that it resumes exactly."""

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers.runs import (
    copy_of,
    eval_command,
    log_lines,
    refused,
    train_and_record,
    train_command,
    training_pairs_as_test,
)

LOSSES = {"itc", "itm", "prd", "mlm", "mrtd", "mae", "attribute", "total"}
STEPS_PER_EPOCH = 3  # 6 people x 2 images x 2 captions in batches of 8


@pytest.fixture(scope="module")
def whole_run(debug_settings, tmp_path_factory):
    """Folder and losses of two epochs without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train_and_record([*debug_settings(), "--output", str(folder)])


def test_files_and_log_of_a_run(whole_run):
    folder, losses = whole_run
    assert len(losses) == 2 * STEPS_PER_EPOCH
    assert all(step.keys() == LOSSES for step in losses)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "best.pth",
        "config.yaml",
        "last.pth",
        "log.jsonl",
        "tensorboard",
        "train.log",
        "versions.json",
    }
    lines = log_lines(folder)
    assert [line["epoch"] for line in lines] == [0, 1]
    assert [line["step"] for line in lines] == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    for number, line in enumerate(lines):
        own = losses[number * STEPS_PER_EPOCH : (number + 1) * STEPS_PER_EPOCH]
        for key in LOSSES:
            assert line[f"train/{key}"] == pytest.approx(sum(step[key] for step in own) / STEPS_PER_EPOCH, rel=1e-6)
        assert 0 <= line["val/R1"] <= line["val/R5"] <= line["val/R10"] <= 100
    assert [line["lr_new"] for line in lines] == pytest.approx([4e-3, 7e-3])  # of the next step, within the warm-up
    assert "lr" not in lines[0]  # no checkpoint filled anything
    tags = EventAccumulator(str(folder / "tensorboard")).Reload().Tags()["scalars"]
    assert "lr_new" in tags
    assert {tag for tag in tags if tag.startswith("lr")} == {"lr_new"}


def test_checkpoints_hold_tensors_and_plain_values_only(whole_run):
    folder, _ = whole_run
    last = torch.load(folder / "last.pth", weights_only=True)
    best = torch.load(folder / "best.pth", weights_only=True)
    assert (last["step"], last["epoch"], last["batch"]) == (2 * STEPS_PER_EPOCH, 2, 0)
    assert last["best"] == best["best"] == max(line["val/R1"] for line in log_lines(folder))
    assert last["model"].keys() == best["model"].keys()


@pytest.mark.parametrize(
    ("stop", "changes"),
    [(2, ()), (STEPS_PER_EPOCH, ()), (4, ("dataset.workers=2", "dataset.cache=false"))],
    ids=["within an epoch", "at its end", "with loader processes"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(whole_run, debug_settings, tmp_path, stop, changes):
    whole, expected = whole_run
    folder = tmp_path / "run"
    before = train_and_record(
        [*debug_settings(f"train.stop_after_steps={stop}", *changes), "--output", str(folder)],
    )
    after = train_and_record([*debug_settings(*changes), "--output", str(folder), "--resume"])
    assert len(before) == stop
    assert before + after == expected
    assert log_lines(folder) == log_lines(whole)
    own, other = (torch.load(path / "last.pth", weights_only=True) for path in (folder, whole))
    assert different(own, other) == (["config.dataset.cache", "config.dataset.workers"] if changes else [])
    assert different(*(torch.load(path / "best.pth", weights_only=True)["model"] for path in (folder, whole))) == []


def different(one, other, name: str = "") -> list[str]:
    """Names of all values, however deep, that are not equal bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [found for key in keys for found in different(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for n in range(len(one)) for found in different(one[n], other[n], f"{name}.{n}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    return [] if one == other else [name]


def test_the_first_run_equals_the_next_which_finds_the_caches_made(debug_settings, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    first, second = (
        train_and_record([*debug_settings("train.stop_after_steps=1", root=root), "--output", str(tmp_path / name)])
        for name in ("first", "second")
    )
    assert first == second


def test_a_run_that_reached_its_stop_does_no_more_steps(debug_settings, tmp_path):
    arguments = [*debug_settings("train.stop_after_steps=1"), "--output", str(tmp_path / "run")]
    assert len(train_and_record(arguments)) == 1
    assert train_and_record([*arguments, "--resume"]) == []


def test_resume_from_a_path_into_another_folder(whole_run, debug_settings, tmp_path, capsys):
    folder, last = tmp_path / "other", whole_run[0] / "last.pth"
    steps = train_and_record([*debug_settings(), "--output", str(folder), "--resume", str(last)])
    assert steps == []  # all epochs were done
    assert (folder / "config.yaml").exists()
    (folder / "last.pth").write_bytes(b"of another run")
    message = refused(train_command, [*debug_settings(), "--output", str(folder), "--resume", str(last)], capsys)
    assert f"{folder} already holds a run" in message
    assert (folder / "last.pth").read_bytes() == b"of another run"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("optimizer.lr=2e-2", "optimizer.lr"),
        ("model.momentum=0.8", "model.momentum"),
        ("model.image_encoder.depth=3", "model.image_encoder.depth"),
        ("losses.weights.mae=0.5", "losses.weights.mae"),
        ("train.batch_size=4", "train.batch_size"),
        ("train.epochs=3", "train.epochs"),
        ("train.seed=1", "train.seed"),
        ("dataset.max_words=9", "dataset.max_words"),
    ],
)
def test_resuming_with_another_configuration_names_the_key(whole_run, debug_settings, capsys, setting, key):
    folder, _ = whole_run
    message = refused(train_command, [*debug_settings(setting), "--output", str(folder), "--resume"], capsys)
    assert f"was trained with {key} = " in message
    assert f"now it is {setting.partition('=')[2]}" in message.replace("0.02", "2e-2")


def test_resuming_from_the_best_checkpoint_is_refused(whole_run, debug_settings, capsys):
    folder, _ = whole_run
    arguments = [*debug_settings(), "--output", str(folder), "--resume", str(folder / "best.pth")]
    assert "resume from last.pth, or start from it by --init" in refused(train_command, arguments, capsys)


def test_starting_from_the_weights_of_another_run(whole_run, debug_settings, tmp_path):
    """--init takes the model alone: a new run whose first losses are those of the trained weights, all at lr."""
    settings = debug_settings("train.stop_after_steps=1", "optimizer.lr_new=5e-2", "losses.warm_up=false")
    trained, new = (
        train_and_record([*settings, "--output", str(tmp_path / name), *more])
        for name, more in (("trained", ["--init", str(whole_run[0] / "best.pth")]), ("new", []))
    )
    assert trained[0]["mlm"] < new[0]["mlm"]
    groups = torch.load(tmp_path / "trained" / "last.pth", weights_only=True)["optimizer"]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {1e-2}


def test_a_folder_with_a_run_is_not_overwritten(whole_run, debug_settings, capsys):
    folder, _ = whole_run
    before = (folder / "last.pth").read_bytes()
    message = refused(train_command, [*debug_settings(), "--output", str(folder)], capsys)
    assert f"{folder} already holds a run: continue it with --resume" in message
    assert (folder / "last.pth").read_bytes() == before


def test_resuming_without_a_checkpoint_says_which_is_missing(debug_settings, tmp_path, capsys):
    folder = tmp_path / "new"
    message = refused(train_command, [*debug_settings(), "--output", str(folder), "--resume"], capsys)
    assert f"checkpoint {folder / 'last.pth'} does not exist" in message
    assert not folder.exists()


def test_the_debug_model_learns_its_pairs_by_heart(debug_settings, tiny_benchmark, tmp_path):
    root = training_pairs_as_test(tiny_benchmark, tmp_path / "data")
    settings = debug_settings(
        "train.epochs=75", "train.batch_size=6", "eval.every=15", "train.log_every_steps=150", root=root
    )
    folder = tmp_path / "run"
    assert train_command([*settings, "--output", str(folder)]) == 0
    assert eval_command([*settings, "--checkpoint", str(folder / "best.pth")]) == 0
    metrics = json.loads(Path(folder / "eval-test" / "metrics.json").read_text())
    assert metrics["R1"] == 100
    assert metrics["chance"]["R1"] < 30
