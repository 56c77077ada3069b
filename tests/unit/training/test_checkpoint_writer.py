"""Checkpoints written in the background: a snapshot, in order, the last ones kept, nothing lost in silence."""

import os
import threading
import time

import pytest
import torch

import training.checkpoint
from training.checkpoint import CheckpointWriter, load_checkpoint, on_cpu
from utils.errors import UserError


def test_a_copy_is_deep_and_keeps_what_is_shared():
    shared = torch.arange(4.0)
    content = {"a": shared, "b": [shared.view(4), (shared[:2], 3)], "c": None}
    copied = on_cpu(content)
    shared.add_(1)
    assert copied["a"].tolist() == [0, 1, 2, 3]
    assert copied["b"][1][0].tolist() == [0, 1]
    assert copied["b"][1][1] == 3
    assert copied["a"].data_ptr() == copied["b"][0].data_ptr()  # tied weights stay one in the file


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    own, may_write = training.checkpoint.save_checkpoint, threading.Event()

    def slow(content, path):
        assert may_write.wait(30)
        own(content, path)

    monkeypatch.setattr(training.checkpoint, "save_checkpoint", slow)
    weights = torch.zeros(3)
    with CheckpointWriter(tmp_path, keep=1) as checkpoints:
        checkpoints.save(on_cpu({"weights": weights}))
        weights.fill_(1)  # the next step
        assert not (tmp_path / "last.pth").exists()
        may_write.set()
    assert load_checkpoint(tmp_path / "last.pth")["weights"].tolist() == [0, 0, 0]


def test_the_last_ones_are_kept_and_last_is_the_newest(tmp_path):
    with CheckpointWriter(tmp_path, keep=2) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save({"step": step}, f"step-{step:06d}.pth")
            checkpoints.wait()
            time.sleep(0.01)  # file times
        assert os.path.samefile(tmp_path / "last.pth", tmp_path / "step-000030.pth")
        checkpoints.save({"step": 33})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pth", "step-000020.pth", "step-000030.pth"]
    assert load_checkpoint(tmp_path / "last.pth")["step"] == 33
    assert load_checkpoint(tmp_path / "step-000030.pth")["step"] == 30


def test_a_run_resumed_from_an_earlier_step_keeps_its_own_checkpoints(tmp_path):
    """What the run before wrote behind that step is older than what is written now."""
    for name, step in (("step-000080.pth", 20), ("step-000020.pth", 90)):
        with CheckpointWriter(tmp_path, keep=1) as checkpoints:
            checkpoints.save({"step": step}, name)
        time.sleep(0.01)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000020.pth"]


def test_without_second_names_for_a_file_there_is_a_copy(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(training.checkpoint.os, "link", refused)
    with CheckpointWriter(tmp_path, keep=1) as checkpoints:
        checkpoints.save({"step": 5}, "step-000005.pth")
    assert load_checkpoint(tmp_path / "last.pth")["step"] == 5


def test_a_write_that_failed_is_told_at_the_end(tmp_path):
    with pytest.raises(UserError, match="cannot write checkpoint"), CheckpointWriter(tmp_path / "no", keep=1) as writer:
        writer.save({"step": 1})


def test_an_error_of_the_run_is_not_hidden_by_one_of_writing(tmp_path):
    def run() -> None:
        with CheckpointWriter(tmp_path / "no", keep=1) as writer:
            writer.save({"step": 1})
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        run()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / "step-000007.pth.tmp").write_bytes(b"half")
    with CheckpointWriter(tmp_path, keep=1, enabled=False):
        assert len(list(tmp_path.iterdir())) == 1
    with CheckpointWriter(tmp_path, keep=1):
        assert list(tmp_path.iterdir()) == []


def test_other_processes_write_nothing(tmp_path):
    with CheckpointWriter(tmp_path, keep=1, enabled=False) as checkpoints:
        checkpoints.save({"step": 1})
    assert list(tmp_path.iterdir()) == []
