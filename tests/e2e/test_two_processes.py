"""Two processes on the CPU (gloo) under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.paths import REPOSITORY
from tests.helpers.runs import eval_command, log_lines, train_and_record

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def run(*arguments: str, max_restarts: int = 0) -> None:
    """Start two processes, which must end with code 0."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*LAUNCHED, f"--max-restarts={max_restarts}", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(debug_settings, tmp_path_factory) -> Path:
    """Folder of an epoch of two steps, in batches of 6 on each process."""
    folder = tmp_path_factory.mktemp("two")
    settings = debug_settings("train.batch_size=6", "train.epochs=1")
    run("-m", "tests.helpers.two_processes", str(folder), *settings, "--output", str(folder / "run"))
    return folder


def test_both_processes_end_with_the_same_weights_and_queue(trained):
    first, second = (torch.load(trained / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    for module in ("model", "momentum_encoder", "queue"):
        assert first[module].keys() == second[module].keys()
        assert [name for name, value in first[module].items() if not torch.equal(value, second[module][name])] == []
        assert all(value.isfinite().all() for value in first[module].values())
    assert int(first["queue"]["pointer"]) == 24  # two steps of 6 pairs on 2 processes
    assert (first["queue"]["person_id"] >= 0).sum() == 24


def test_only_one_process_writes_and_both_random_states_are_kept(trained):
    (line,) = log_lines(trained / "run")
    assert line["step"] == 2
    saved = torch.load(trained / "run" / "last.pth", weights_only=True)
    assert saved["step"] == 2
    states = [state["torch"] for state in saved["random_states"]]
    assert len(states) == 2
    assert not torch.equal(*states)  # each draws its own negatives and masks


def test_training_starts_from_the_same_weights_as_in_one_process(trained, debug_settings, tmp_path):
    """Some steps later the draws differ; the logged contrastive loss of the first epoch stays near."""
    steps = train_and_record(
        [*debug_settings("train.batch_size=12", "train.epochs=1"), "--output", str(tmp_path / "run")]
    )
    mean = sum(step["itc"] for step in steps) / len(steps)
    assert log_lines(trained / "run")[0]["train/itc"] == pytest.approx(mean, rel=0.05)


def test_evaluation_gives_what_one_process_gives(trained, debug_settings, tmp_path):
    settings = debug_settings("eval.rerank_top_k=5", "eval.batch_size=2")
    arguments = [*settings, "--checkpoint", str(trained / "run" / "last.pth")]
    arguments += ["--measures", "grounding", "--grounding-captions", "5"]
    run("eval.py", *arguments, "--output", str(tmp_path / "two"))
    assert eval_command([*arguments, "--output", str(tmp_path / "one")]) == 0
    for file in ("metrics.json", "grounding.json"):
        one, two = (json.loads((tmp_path / name / file).read_text()) for name in ("one", "two"))
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_killed_process_comes_back_and_the_run_ends_as_if_nothing_had_happened(trained, debug_settings, tmp_path):
    settings = debug_settings("train.batch_size=6", "train.epochs=1", "train.checkpoint_every_steps=1")
    run("-m", "tests.helpers.killed_once", str(tmp_path), *settings, "--output", str(tmp_path / "run"), max_restarts=1)
    assert (tmp_path / "killed").read_text() == "rank 1 after step 1"
    own, other = (torch.load(folder / "run" / "last.pth", weights_only=True) for folder in (tmp_path, trained))
    assert (own["step"], own["epoch"]) == (other["step"], other["epoch"]) == (2, 1)
    for module in ("model", "momentum_encoder", "queue"):
        assert [name for name, value in own[module].items() if not torch.equal(value, other[module][name])] == []
    assert log_lines(tmp_path / "run") == log_lines(trained / "run")
