"""Two processes, one process in parts, and sharded parameters: the same step, up to rounding."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.helpers.gradients import EAGER, GRAPHED, STOPPED, losses_and_gradients
from tests.helpers.paths import REPOSITORY
from tests.helpers.runs import log_lines, train_command
from training.checkpoint import load_checkpoint

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
PAIRS_OF_A_PART = ("itm", "attribute")  # their negatives come from the same process's part of the batch
COMMON = ("train.epochs=1", "optimizer.clip_norm=null", "optimizer.lr=1e-3", "optimizer.lr_new=1e-3")
WITHOUT_NEGATIVES = tuple(f"losses.weights.{key}=0" for key in PAIRS_OF_A_PART)
WITHOUT_PAIRS = (*WITHOUT_NEGATIVES, *(f"losses.weights.{key}=0" for key in ("prd", "mlm", "mrtd")))  # itc and mae

# as long as each other, so that all batches have the same shapes; four steps
SHORT_TEXTS = ("train.batch_size=6", "train.accumulate=2", "train.epochs=2", "dataset.max_words=4")


@pytest.fixture(scope="module")
def arguments(debug_settings, tmp_path_factory):
    """Makes the arguments of a run of two steps of 12 samples: arguments("name", "train.accumulate=2")."""
    folder = tmp_path_factory.mktemp("runs")

    def of(name: str, *settings: str, more: tuple[str, ...] = ()) -> list[str]:
        return [*debug_settings(*COMMON, *settings), "--output", str(folder / name), *more]

    of.folder = folder
    return of


@pytest.fixture(scope="module")
def on_two(arguments):
    """What both processes of several runs recorded: on_two[name][rank]."""
    runs = {
        "all": arguments("all", "train.batch_size=6"),
        "without": arguments("without", "train.batch_size=6", *WITHOUT_NEGATIVES),
        "in parts": arguments("in parts", "train.batch_size=6", "train.accumulate=2", *WITHOUT_NEGATIVES),
        "few": arguments("few", "train.batch_size=6", "train.accumulate=2", *WITHOUT_PAIRS),
        "fsdp": arguments("fsdp", "train.batch_size=6", "train.sharding=fsdp"),
        STOPPED: arguments(STOPPED, "train.batch_size=6"),
        EAGER: arguments(EAGER, *SHORT_TEXTS),
        GRAPHED: arguments(GRAPHED, *SHORT_TEXTS),
        "half": arguments("half", "train.batch_size=6", "train.stop_after_steps=1"),
    }
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*LAUNCHED, "-m", "tests.helpers.gradients", str(arguments.folder), json.dumps(runs)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return {name: [torch.load(arguments.folder / f"{name}-{rank}.pth") for rank in (0, 1)] for name in runs}


@pytest.fixture(scope="module")
def on_one(arguments):
    """The same steps in one process."""
    return {
        "parts": losses_and_gradients(arguments("one, parts", "train.batch_size=12", "train.accumulate=2")),
        "without": losses_and_gradients(arguments("one, without", "train.batch_size=12", *WITHOUT_NEGATIVES)),
        "without, parts": losses_and_gradients(
            arguments("one, without, parts", "train.batch_size=12", "train.accumulate=3", *WITHOUT_NEGATIVES)
        ),
        "few": losses_and_gradients(arguments("one, few", "train.batch_size=12", *WITHOUT_PAIRS)),
    }


def assert_same_step(one, other, tolerance: float = 1e-5) -> None:
    assert one["gradients"].keys() == other["gradients"].keys()
    for name, gradient in one["gradients"].items():
        if gradient is None:
            assert other["gradients"][name] is None
        else:
            torch.testing.assert_close(other["gradients"][name], gradient, rtol=tolerance, atol=tolerance, msg=name)


def mean_losses(ranks, step: int) -> dict[str, float]:
    return {
        key: (ranks[0]["losses"][step][key] + ranks[1]["losses"][step][key]) / 2 for key in ranks[0]["losses"][step]
    }


def test_two_processes_give_the_gradients_of_one_on_the_union_batch(on_two, on_one, arguments):
    for rank in (0, 1):
        assert_same_step(on_one["without"], on_two["without"][rank])
    for step in (0, 1):  # the second one sees the queue that both processes filled
        assert mean_losses(on_two["without"], step) == pytest.approx(on_one["without"]["losses"][step], rel=1e-4)
    logged, one_logged = (log_lines(arguments.folder / name)[0] for name in ("without", "one, without"))
    for key in ("itc", "prd", "mlm", "mrtd", "mae", "total"):  # means over the epoch, of the union batch in both
        assert logged[f"train/{key}"] == pytest.approx(one_logged[f"train/{key}"], rel=1e-4)


def test_losses_that_leave_half_of_the_model_out(on_two, on_one):
    """Two processes wait for gradients of what is trained, not of the layers that itc and mae never run."""
    for rank in (0, 1):
        assert_same_step(on_one["few"], on_two["few"][rank])
    without = {name for name, gradient in on_two["few"][0]["gradients"].items() if gradient is None}
    assert any("crossattention" in name for name in without)
    assert mean_losses(on_two["few"], 1) == pytest.approx(on_one["few"]["losses"][1], rel=1e-4)


def test_with_negatives_it_is_the_union_batch_in_two_parts(on_two, on_one):
    assert_same_step(on_one["parts"], on_two["all"][0])
    for step in (0, 1):
        assert mean_losses(on_two["all"], step) == pytest.approx(on_one["parts"]["losses"][step], rel=1e-4)


def test_parts_give_the_gradients_of_the_large_batch(on_two, on_one):
    assert_same_step(on_one["without"], on_one["without, parts"])
    assert_same_step(on_one["without"], on_two["in parts"][1])


def test_the_gradients_are_large_enough_to_differ(on_one):
    """Else the tolerance above would compare nothing."""
    largest = [
        float(gradient.abs().max()) for gradient in on_one["without"]["gradients"].values() if gradient is not None
    ]
    assert sorted(largest)[len(largest) // 2] > 1e-3  # half of the parameters


def test_sharded_parameters_give_the_same_steps_and_checkpoint(on_two, arguments):
    for rank in (0, 1):
        assert_same_step(on_two["all"][rank], on_two["fsdp"][rank])
        for one, other in zip(on_two["all"][rank]["losses"], on_two["fsdp"][rank]["losses"], strict=True):
            assert other == pytest.approx(one, rel=1e-5)
    whole, sharded = (load_checkpoint(arguments.folder / name / "last.pth") for name in ("all", "fsdp"))
    for module in ("model", "momentum_encoder"):
        assert whole[module].keys() == sharded[module].keys()
        for name, value in whole[module].items():
            torch.testing.assert_close(sharded[module][name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert whole["optimizer"]["state"].keys() == sharded["optimizer"]["state"].keys()
    for number, moments in whole["optimizer"]["state"].items():
        torch.testing.assert_close(sharded["optimizer"]["state"][number], moments, rtol=1e-3, atol=1e-6)


def test_graphs_with_exchanges_between_them_give_the_steps_of_ddp(on_two, arguments):
    """To the last bit, as two numbers have one sum. Meanwhile one process replays what the other still runs eagerly."""
    assert [on_two[GRAPHED][rank]["replays"] for rank in (0, 1)] == [3, 2]
    for rank in (0, 1):
        assert on_two[GRAPHED][rank]["losses"] == on_two[EAGER][rank]["losses"]
        for name, gradient in on_two[EAGER][rank]["gradients"].items():
            assert torch.equal(on_two[GRAPHED][rank]["gradients"][name], gradient), name
    eager, graphed = (load_checkpoint(arguments.folder / name / "last.pth") for name in (EAGER, GRAPHED))
    for module in ("model", "momentum_encoder", "queue"):
        for name, value in eager[module].items():
            assert torch.equal(graphed[module][name], value), name


def test_another_number_of_processes_resumes_the_same_run(on_two, arguments):
    """Stopped after the first of two steps on two processes; goes on in one, with the batch in as many parts."""
    last = str(arguments.folder / "half" / "last.pth")
    settings = ("train.batch_size=12", "train.accumulate=2")
    rest = losses_and_gradients(arguments("on one", *settings, more=("--resume", last)))
    assert len(rest["losses"]) == 1
    assert rest["losses"][0] == pytest.approx(mean_losses(on_two["all"], 1), rel=1e-4)
    one, two = (load_checkpoint(arguments.folder / name / "last.pth") for name in ("on one", "all"))
    for counter in ("step", "epoch", "batch", "schedule"):
        assert one[counter] == two[counter]
    for name, value in two["model"].items():
        torch.testing.assert_close(one["model"][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_signal_to_one_process_stops_both_behind_the_same_step(on_two, arguments):
    assert [len(on_two[STOPPED][rank]["losses"]) for rank in (0, 1)] == [1, 1]
    stopped, half = (load_checkpoint(arguments.folder / name / "last.pth") for name in (STOPPED, "half"))
    assert (stopped["step"], stopped["batch"]) == (1, 1)
    for name, value in half["model"].items():
        assert torch.equal(stopped["model"][name], value), name


def test_fsdp_wants_processes(arguments, capsys):
    assert train_command(arguments("alone", "train.sharding=fsdp")) == 2
    assert "use torchrun" in capsys.readouterr().err
