"""--check, --profile, --wandb, and the pictures that TensorBoard gets."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset.loaders import EpochBatches
from tests.helpers.gradients import by_graphs
from tests.helpers.runs import refused, train_and_record, train_command
from training.progress import LossReader
from utils.cuda_graphs import WARM_UP_CALLS


def test_check_tells_what_a_run_takes_and_leaves_nothing(debug_settings, tmp_path, capsys):
    settings = debug_settings("train.epochs=4", "eval.every=2")
    assert train_command([*settings, "--output", str(tmp_path / "run"), "--check"]) == 0
    told = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("whole run", "whole_run").splitlines()
    )
    assert list(told) == ["memory", "disk", "step", "evaluation", "whole_run"]
    assert "GiB" in told["memory"]
    assert told["whole_run"].endswith("12 steps, 2 evaluations")
    assert list(tmp_path.iterdir()) == []


def test_check_counts_the_loader_and_reads_the_losses_of_the_last_step(debug_settings, tmp_path, monkeypatch, capsys):
    own = EpochBatches.__iter__
    monkeypatch.setattr(EpochBatches, "__iter__", lambda batches: (time.sleep(0.5) or rows for rows in own(batches)))
    arguments = [*debug_settings(), "--output", str(tmp_path / "run"), "--check"]
    assert train_command(arguments) == 0
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("step"))
    assert float(told.split()[1]) >= 0.5  # seconds
    on_their_way = []
    monkeypatch.setattr(LossReader, "read", lambda reader, step, losses: on_their_way.append(step))  # as from a GPU
    monkeypatch.setattr(LossReader, "read_rest", lambda reader: on_their_way.clear())
    assert train_command(arguments) == 0
    assert on_their_way == []


def test_check_of_graphs_times_a_replay(debug_settings, tmp_path):
    with by_graphs(WARM_UP_CALLS) as recorder:
        assert train_command([*debug_settings(), "--output", str(tmp_path / "run"), "--check"]) == 0
    assert recorder.replays == 2


def test_profile_traces_some_steps(debug_settings, tmp_path):
    folder = tmp_path / "run"
    assert train_command([*debug_settings(), "--output", str(folder), "--profile"]) == 0
    events = json.loads((folder / "profile.json").read_text())["traceEvents"]
    steps = {event["name"] for event in events if event.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 3


def test_wandb_gets_what_tensorboard_gets(debug_settings, tmp_path, monkeypatch):
    started, ended = [], []

    def init(**settings):
        started.append(settings)
        return SimpleNamespace(finish=lambda: ended.append(True))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    arguments = [*debug_settings("train.stop_after_steps=1"), "--output", str(tmp_path / "run"), "--wandb"]
    assert train_command(arguments) == train_command([*arguments, "--resume"]) == 0
    assert [settings["sync_tensorboard"] for settings in started] == [True, True]
    assert started[0]["config"]["train"]["stop_after_steps"] == 1
    assert started[0]["id"] == started[1]["id"]  # a resumed run goes on with its own
    assert len(ended) == 2


def test_wandb_that_is_not_installed(debug_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = refused(train_command, [*debug_settings(), "--output", str(tmp_path / "run"), "--wandb"], capsys)
    assert "pip install wandb" in message


@pytest.mark.parametrize("mae", [True, False])
def test_each_evaluation_leaves_pictures(debug_settings, tmp_path, mae):
    settings = debug_settings("train.epochs=1", *(() if mae else ("losses.weights.mae=0",)))
    train_and_record([*settings, "--output", str(tmp_path / "run")])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert events.Tags()["images"] == (["retrievals", "reconstruction"] if mae else ["retrievals"])
    (image,) = events.Images("retrievals")
    assert image.step == 3
    assert (image.width, image.height) == (6 * (32 + 2 * 4), 4 * (32 + 2 * 4))  # 6 images framed, for 4 captions
    if mae:
        assert (events.Images("reconstruction")[0].width, events.Images("reconstruction")[0].height) == (96, 128)


def test_pictures_do_not_move_the_draws_of_training(debug_settings, tmp_path, monkeypatch):
    import train

    with_pictures = train_and_record([*debug_settings(), "--output", str(tmp_path / "with")])
    monkeypatch.setattr(train, "show_examples", lambda *_: None)
    assert train_and_record([*debug_settings(), "--output", str(tmp_path / "without")]) == with_pictures


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("train.accumulate=3",), "batch_size 8 does not divide into 3 equal parts"),
        (("train.sharding=fsdp", "train.precision=fp16"), "fp16 does not go with sharding fsdp"),
    ],
)
def test_values_that_cannot_go_together(debug_settings, tmp_path, capsys, settings, message):
    assert message in refused(train_command, [*debug_settings(*settings), "--output", str(tmp_path / "run")], capsys)


def test_compiled_layers_give_the_same_losses(debug_settings, tmp_path, monkeypatch):
    """Traced, but not turned into machine code, which would take minutes."""
    own = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: own(layer, backend="eager"))
    few_kinds = [f"losses.weights.{key}=0" for key in ("mlm", "mrtd", "mae", "attribute", "prd")]
    settings = debug_settings("train.stop_after_steps=1", *few_kinds)
    plain, compiled = (
        train_and_record([*settings, f"train.compile={flag}", "--output", str(tmp_path / flag)])
        for flag in ("false", "true")
    )
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])  # in bf16 with weights that are joined and cast once in a step
def test_less_memory_gives_the_same_run(debug_settings, tmp_path, precision):
    few = ("train.stop_after_steps=2", f"train.precision={precision}")
    plain, again = (
        train_and_record(
            [
                *debug_settings(*few, f"train.activation_checkpointing={flag}"),
                *("--output", str(tmp_path / flag)),
            ]
        )
        for flag in ("false", "true")
    )
    for one, other in zip(plain, again, strict=True):
        assert other == pytest.approx(one, rel=1e-5)
