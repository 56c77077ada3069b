"""Runs that are stopped, by signals or early stopping, and the checkpoints of steps."""

import os
import signal

import pytest
import torch

import training.loop
from tests.helpers.runs import log_lines, refused, train_and_record, train_command
from training.checkpoint import load_checkpoint
from training.objectives import Objectives

STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def whole_run(debug_settings, tmp_path_factory):
    """Folder and losses of two epochs without a stop."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, train_and_record([*debug_settings(), "--output", str(folder)])


def stopped_in(place: tuple[object, str], at_call: int, number: int, monkeypatch) -> None:
    """The process is sent a signal within the given call of a function, which place names."""
    own, calls = getattr(*place), []

    def signalled(*args, **kwargs):
        calls.append(place)
        if len(calls) == at_call:
            os.kill(os.getpid(), number)
        return own(*args, **kwargs)

    monkeypatch.setattr(*place, signalled)


@pytest.mark.parametrize(
    ("where", "at_call", "number", "steps"),
    [
        ((Objectives, "forward"), 2, signal.SIGTERM, 2),
        ((Objectives, "forward"), 4, signal.SIGINT, 4),
        ((training.loop, "score_gallery"), 1, signal.SIGTERM, 3),
    ],
    ids=["within the first epoch", "within the second, by Ctrl-C", "within an evaluation"],
)
def test_a_signal_finishes_the_step_saves_and_ends_well(
    whole_run, debug_settings, tmp_path, monkeypatch, caplog, where, at_call, number, steps
):
    folder, (whole, expected) = tmp_path / "run", whole_run
    arguments = [*debug_settings(), "--output", str(folder)]
    with monkeypatch.context() as patch:
        stopped_in(where, at_call, number, patch)
        before = train_and_record(arguments)  # which asserts the exit code 0
    assert len(before) == steps
    assert f"stopped after step {steps}, as a signal asks; --resume goes on from here" in caplog.text
    assert before + train_and_record([*arguments, "--resume"]) == expected
    assert log_lines(folder) == log_lines(whole)


def test_checkpoints_of_steps_and_resuming_from_one_of_them(whole_run, debug_settings, tmp_path):
    folder, (_, expected) = tmp_path / "run", whole_run
    settings = debug_settings("train.checkpoint_every_steps=2", "train.keep_checkpoints=2")
    assert train_and_record([*settings, "--output", str(folder)]) == expected
    assert sorted(path.name for path in folder.glob("*.pth")) == [
        "best.pth",
        "last.pth",
        "step-000004.pth",
        "step-000006.pth",
    ]
    within_the_epoch = load_checkpoint(folder / "step-000004.pth")
    assert (within_the_epoch["step"], within_the_epoch["epoch"], within_the_epoch["batch"]) == (4, 1, 1)
    rest = train_and_record([*settings, "--output", str(folder), "--resume", str(folder / "step-000004.pth")])
    assert rest == expected[4:]


def test_resume_auto_starts_anew_or_goes_on(whole_run, debug_settings, tmp_path):
    arguments = [*debug_settings("train.stop_after_steps=2"), "--output", str(tmp_path / "run"), "--resume", "auto"]
    assert train_and_record(arguments) == whole_run[1][:2]
    assert train_and_record(arguments) == []


def test_a_restart_by_the_launcher_goes_on_by_itself(whole_run, debug_settings, tmp_path, monkeypatch):
    arguments = [*debug_settings("train.stop_after_steps=2"), "--output", str(tmp_path / "run")]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a launch")
    assert len(train_and_record(arguments)) == 2  # killed before anything was saved: from the start
    assert train_and_record(arguments) == []


def test_early_stopping_counts_evaluations_and_survives_a_resume(debug_settings, tmp_path, caplog):
    rates = ("optimizer.lr=1e-9", "optimizer.lr_new=1e-9", "schedule.min_lr=0", "train.epochs=9")  # learns nothing
    arguments = [*debug_settings(*rates, "train.early_stopping=2"), "--output", str(tmp_path / "run")]
    steps = train_and_record(arguments)
    assert len(steps) == 3 * STEPS_PER_EPOCH  # the best is the first one
    last = load_checkpoint(tmp_path / "run" / "last.pth")
    assert (last["epoch"], last["stale"]) == (3, 2)
    assert train_and_record([*arguments, "--resume"]) == []
    assert "train.early_stopping" in caplog.text


def test_a_run_in_fp16_keeps_its_scaler(debug_settings, tmp_path):
    settings = debug_settings("train.precision=fp16", "train.stop_after_steps=2")
    assert train_command([*settings, "--output", str(tmp_path / "run")]) == 0
    scaler = load_checkpoint(tmp_path / "run" / "last.pth")["scaler"]
    assert scaler["scale"] > 0
    steps = debug_settings("train.precision=fp16", "train.stop_after_steps=3")
    more = train_and_record([*steps, "--output", str(tmp_path / "run"), "--resume"])
    assert len(more) == 1
    again = load_checkpoint(tmp_path / "run" / "last.pth")["scaler"]
    assert again["_growth_tracker"] == scaler["_growth_tracker"] + 1 or again["scale"] < scaler["scale"]
    assert all(torch.isfinite(torch.tensor(loss)) for loss in more[0].values())


def test_a_restart_after_a_refusal_does_not_go_on_with_another_run(whole_run, debug_settings, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another launch")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    message = refused(train_command, [*debug_settings(), "--output", str(whole_run[0])], capsys)
    assert "already holds a run" in message
