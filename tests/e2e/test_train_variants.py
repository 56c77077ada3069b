"""Data and configurations at the edges: each trains a step with finite losses and is evaluated."""

import json
import math

import pytest
import torch

from dataset.prepare import main as prepare
from dataset.synthpedes.generate import generate
from tests.helpers.benchmark import read_split
from tests.helpers.runs import (
    copy_of,
    eval_command,
    log_lines,
    refused,
    train_and_record,
    train_command,
    write_split,
)

LOSSES = ("itc", "itm", "prd", "mlm", "mrtd", "mae", "attribute")
ONE_STEP = ("train.batch_size=24", "train.epochs=1")  # all 24 training pairs


@pytest.fixture
def losses_of(debug_settings, tmp_path):
    """Train with some settings; returns the losses of the first step after a check that all of all steps are finite."""

    def run(*settings: str, **data) -> dict[str, float]:
        steps = train_and_record([*debug_settings(*settings, **data), "--output", str(tmp_path / "run")])
        assert steps
        assert all(math.isfinite(value) for step in steps for value in step.values())
        return steps[0]

    return run


@pytest.fixture
def switches_restored(monkeypatch):
    """What debug.deterministic and debug.detect_anomaly turn on is for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


def test_a_batch_of_one_person_has_no_negatives(losses_of, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    write_split(root, "train", [record for record in read_split(root, "train") if record["id"] == 1])
    losses = losses_of("train.batch_size=4", root=root)
    assert losses["itm"] > 0  # of the positive pairs


def test_captions_without_any_chunk(losses_of, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    write_split(root, "train", [record | {"captions": ["She walks"]} for record in read_split(root, "train")])
    losses = losses_of("train.batch_size=12", root=root)
    assert losses["attribute"] == 0
    assert losses["itm"] > 0


def test_captions_of_nothing_but_signs(losses_of, tiny_benchmark, tmp_path):
    """The class token alone is left: no word to mask, none to replace."""
    root = copy_of(tiny_benchmark, tmp_path / "data")
    write_split(root, "train", [record | {"captions": ["..."]} for record in read_split(root, "train")])
    losses = losses_of("train.batch_size=12", root=root)
    assert losses["mlm"] == losses["mrtd"] == losses["attribute"] == 0


@pytest.mark.parametrize("key", LOSSES)
def test_a_loss_of_weight_0_is_left_out(losses_of, tmp_path, key):
    losses = losses_of(f"losses.weights.{key}=0", *ONE_STEP)
    assert losses.keys() == {*LOSSES, "total"} - {key}
    logged = {name.partition("/")[2] for name in log_lines(tmp_path / "run")[0] if name.startswith("train/")}
    assert logged == losses.keys()


@pytest.mark.parametrize("key", LOSSES)
def test_a_loss_alone(losses_of, key):
    losses = losses_of(*(f"losses.weights.{other}=0" for other in LOSSES if other != key), *ONE_STEP)
    assert losses.keys() == {key, "total"}


@pytest.mark.parametrize(
    "settings",
    [
        ("dataset.image_size=[48,16]",),
        ("model.image_encoder.type=vit", "model.image_encoder.num_heads=4"),
        ("model.image_encoder.type=vit", "model.image_encoder.num_heads=4", "dataset.image_size=[48,16]"),
        ("model.image_encoder.registers=3",),
        (
            "model.image_encoder={registers: 4, register_reduction: 2, register_tokens: false}",
            "dataset.image_size=[48,16]",
        ),
        ("model.text_encoder.full_cross_attention=false",),
        ("train.precision=bf16",),
        ("eval.rerank_top_k=1000",),
        ("eval.rerank_top_k=0", "eval.tail=constant"),
        ("losses.warm_up=false", "losses.alpha=0"),
        ("model.queue_size=5",),  # shorter than a batch
        ("debug.deterministic=true", "debug.detect_anomaly=true"),
    ],
    ids=lambda settings: " ".join(setting.rpartition(".")[2] for setting in settings),
)
@pytest.mark.usefixtures("switches_restored")
def test_a_variant_trains_and_is_evaluated(losses_of, debug_settings, tmp_path, settings):
    losses = losses_of(*settings, *ONE_STEP)
    assert losses.keys() == {*LOSSES, "total"}
    checkpoint = tmp_path / "run" / "best.pth"
    assert eval_command([*debug_settings(*settings), "--checkpoint", str(checkpoint)]) == 0
    metrics = json.loads((tmp_path / "run" / "eval-test" / "metrics.json").read_text())
    assert 0 < metrics["mAP"] <= 100


def test_a_benchmark_without_validation_people(debug_settings, tmp_path, caplog, capsys):
    """ICFG-PEDES: people held out of train stand in, and none of them is trained on."""
    root = tmp_path / "icfg"
    generate(
        root,
        benchmark="ICFG-PEDES",
        people={"train": 21, "val": 0, "test": 2},
        images_per_person=1,
        captions_per_image=1,
        seed=0,
        size_px=(64, 32),
        workers=1,
    )
    assert prepare(["ICFG-PEDES", str(root)]) == 0
    settings = ("dataset.name=ICFG-PEDES", "train.epochs=1", "train.batch_size=19")  # 2 of 21 are held out
    folder = tmp_path / "run"
    assert len(train_and_record([*debug_settings(*settings, root=root), "--output", str(folder)])) == 1
    assert caplog.text.count("ICFG-PEDES has no validation people: 2 of 21 train images") == 1
    assert caplog.text.count("held out") == 1
    checkpoint = ["--checkpoint", str(folder / "best.pth")]
    assert eval_command([*debug_settings(*settings, root=root), *checkpoint, "--split", "val"]) == 0
    assert json.loads((folder / "eval-val" / "metrics.json").read_text())["num_people"] == 2
    settings = (*settings, "eval.select_on=test", "train.batch_size=21")
    assert len(train_and_record([*debug_settings(*settings, root=root), "--output", str(tmp_path / "all")])) == 1
    arguments = [*debug_settings(*settings, root=root), "--checkpoint", str(tmp_path / "all" / "best.pth")]
    assert "has no validation people" in refused(eval_command, [*arguments, "--split", "val"], capsys)
    other = [*debug_settings("eval.select_on=test", root=root), "--output", str(tmp_path / "other")]
    assert "holds ICFG-PEDES, but dataset.name is CUHK-PEDES" in refused(train_command, other, capsys)
