"""What a user can get wrong, and what can go wrong around a run: one line, exit code 2, and nothing lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
import training.checkpoint
from tests.helpers.benchmark import read_split
from tests.helpers.paths import DEBUG_CONFIG, REPOSITORY
from tests.helpers.runs import copy_of, eval_command, refused, train_and_record, train_command, write_split
from training.checkpoint import load_checkpoint
from training.objectives import Objectives


@pytest.fixture(scope="module")
def half_run(debug_settings, tmp_path_factory):
    """Bytes of last.pth after two steps."""
    folder = tmp_path_factory.mktemp("half") / "run"
    train_and_record([*debug_settings("train.stop_after_steps=2"), "--output", str(folder)])
    return (folder / "last.pth").read_bytes()


@pytest.fixture
def started(half_run, tmp_path) -> Path:
    """A run's folder with a good checkpoint in it."""
    folder = tmp_path / "started"
    folder.mkdir()
    (folder / "last.pth").write_bytes(half_run)
    return folder


def broken_image(root: Path, split: str) -> str:
    """Cut an image of a split in half; returns its path."""
    path = root / "imgs" / read_split(root, split)[-1]["file_path"]
    path.write_bytes(path.read_bytes()[:300])
    return str(path)


# ---- paths and configuration ----


@pytest.mark.parametrize("command", ["train", "eval"])
def test_missing_dataset(debug_settings, started, tmp_path, capsys, command):
    root = tmp_path / "nowhere"
    arguments = [*debug_settings(root=root), "--output", str(tmp_path / "run")]
    run = train_command
    if command == "eval":
        run, arguments = eval_command, [*arguments, "--checkpoint", str(started / "last.pth")]
    message = refused(run, arguments, capsys)
    assert str(root / "processed_data") in message
    assert "bash shell/data_process.sh" in message


def test_missing_checkpoints(debug_settings, tmp_path, capsys):
    missing = str(tmp_path / "no.pth")
    for command, option in ((eval_command, "--checkpoint"), (train_command, "--init"), (train_command, "--resume")):
        arguments = [*debug_settings(), "--output", str(tmp_path / option), option, missing]
        assert f"checkpoint {missing} does not exist" in refused(command, arguments, capsys)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.learning_rate=1", "optimizer.learning_rate: unknown key"),
        ("optimiser.lr=1", "optimiser: unknown key; did you mean optimizer?"),
        ("train.epochs=many", "train.epochs: must be a whole number"),
        ("dataset.image_size=33", "33 px is not divisible by patch_size 8; the nearest size is 32"),
        ("model.text_encoder.name=./nowhere", "./nowhere"),
        ("dataset.max_words=65", "max_words 65 does not fit into max_position_embeddings 64"),
        ("model.text_encoder.vocab_size=20", "vocab_size 20 is less than the"),
        ("model.image_encoder.scan_backend=triton", "selective_scan backend 'triton' cannot be used: "),
        ("train.batch_size=25", "24 training pairs do not fill one batch of 25"),
    ],
)
def test_wrong_key_or_value(debug_settings, tmp_path, capsys, setting, message):
    assert message in refused(train_command, [*debug_settings(setting), "--output", str(tmp_path / "run")], capsys)


def test_missing_configuration(tmp_path, capsys):
    message = refused(train_command, ["--config", str(DEBUG_CONFIG.with_name("debg.yaml"))], capsys)
    assert "debg.yaml: no such file; did you mean" in message


def test_files_that_are_no_checkpoints(debug_settings, half_run, tmp_path, capsys):
    (tmp_path / "cut.pth").write_bytes(half_run[: len(half_run) // 2])
    (tmp_path / "text.pth").write_text("a note")
    torch.save({"model": {"layer.weight": torch.ones(2)}}, tmp_path / "foreign.pth")
    for name in ("cut", "text"):
        path = str(tmp_path / f"{name}.pth")
        for command, option in ((eval_command, "--checkpoint"), (train_command, "--init"), (train_command, "--resume")):
            arguments = [*debug_settings(), "--output", str(tmp_path / "run" / option), option, path]
            assert path in refused(command, arguments, capsys)
    arguments = [*debug_settings(), "--output", str(tmp_path / "run"), "--resume", str(tmp_path / "foreign.pth")]
    assert "foreign weights go to --init" in refused(train_command, arguments, capsys)


def test_evaluating_with_other_sizes_or_a_part_of_the_model(debug_settings, started, tmp_path, capsys):
    arguments = [*debug_settings("model.embed_dim=16"), "--checkpoint", str(started / "last.pth")]
    assert "set the sizes of the configuration to the checkpoint's" in refused(eval_command, arguments, capsys)
    weights = load_checkpoint(started / "last.pth")["model"]
    name = "image_encoder."
    image_encoder = {key.removeprefix(name): value.clone() for key, value in weights.items() if key.startswith(name)}
    torch.save({"model": image_encoder}, tmp_path / "vim.pth")
    message = refused(eval_command, [*debug_settings(), "--checkpoint", str(tmp_path / "vim.pth")], capsys)
    assert "fills only a part of the model" in message


def test_from_the_shell_a_mistake_is_one_line_and_code_2(tmp_path):
    command = [sys.executable, "train.py", "--config", str(DEBUG_CONFIG), "--set", f"dataset.root={tmp_path / 'no'}"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "run")], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


# ---- images ----


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["true", "false"])
def test_an_unreadable_image_stops_or_is_left_out(
    debug_settings, tiny_benchmark, tmp_path, capsys, caplog, cache, workers
):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    path = broken_image(root, "train")
    common = (f"dataset.cache={cache}", f"dataset.workers={workers}", "train.epochs=1")
    arguments = [*debug_settings(*common, root=root), "--output", str(tmp_path / "error")]
    assert f"error: {path}: cannot be read as a picture" in refused(train_command, arguments, capsys)
    arguments = [*debug_settings(*common, "dataset.on_bad_image=skip", root=root), "--output", str(tmp_path / "skip")]
    steps = train_and_record(arguments)
    # with the cache, it is known before the first epoch; without, another pair takes the place
    assert len(steps) == (2 if cache == "true" else 3)
    if workers == 0 or cache == "true":  # else a loader process says it
        assert path in caplog.text


def test_an_unreadable_gallery_image(debug_settings, tiny_benchmark, started, tmp_path, capsys, caplog):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    path = broken_image(root, "test")
    common = ["--checkpoint", str(started / "last.pth"), "--output", str(tmp_path / "eval")]
    for cache in ("true", "false"):
        cached = f"dataset.cache={cache}"
        message = refused(eval_command, [*debug_settings(cached, root=root), *common], capsys)
        assert f"error: {path}: cannot be read as a picture" in message
        assert eval_command([*debug_settings(cached, "dataset.on_bad_image=skip", root=root), *common]) == 0
        assert f"left out: {path}" in caplog.text
        assert '"num_images": 7' in (tmp_path / "eval" / "metrics.json").read_text()


def test_no_image_can_be_read(debug_settings, tiny_benchmark, tmp_path, capsys):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    for record in read_split(root, "train"):
        (root / "imgs" / record["file_path"]).unlink()
    arguments = debug_settings("dataset.on_bad_image=skip", root=root)
    assert "no training pair" in refused(train_command, [*arguments, "--output", str(tmp_path / "run")], capsys)


def test_processed_data_cut_off(debug_settings, tiny_benchmark, tmp_path, capsys):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    path = root / "processed_data" / "train.json"
    path.write_text(path.read_text()[:100])
    message = refused(train_command, [*debug_settings(root=root), "--output", str(tmp_path / "run")], capsys)
    assert f"{path}: the JSON is cut off" in message


def test_nobody_to_find(debug_settings, tiny_benchmark, started, tmp_path, capsys):
    root = copy_of(tiny_benchmark, tmp_path / "data")
    write_split(root, "test", [])
    arguments = [*debug_settings(root=root), "--checkpoint", str(started / "last.pth")]
    assert "nothing to evaluate" in refused(eval_command, arguments, capsys)


# ---- losses that are not finite ----


def test_a_loss_that_is_not_finite_stops_the_run(debug_settings, started, half_run, monkeypatch, capsys):
    own_step = train.train_step

    def spoilt_at_step_4(state, *args):
        if state.step == 3:
            state.model.text_proj.weight.data[0, 0] = torch.nan
        return own_step(state, *args)

    monkeypatch.setattr(train, "train_step", spoilt_at_step_4)
    arguments = [*debug_settings("train.stop_after_steps=5"), "--output", str(started), "--resume"]
    message = refused(train_command, arguments, capsys)
    assert "step 4: itc nan" in message
    assert "total nan" in message
    assert "mlm" not in message  # the losses that are finite are not accused
    saved = load_checkpoint(started / "last.pth")
    assert saved["step"] == 3  # the end of the first epoch
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_weights_that_are_not_finite_are_not_saved(debug_settings, started, half_run, monkeypatch, capsys):
    """The square root of 0 has an infinite slope: a finite loss, and a gradient that is not."""
    own = Objectives.forward

    def with_infinite_slope(objectives, *args):
        losses, temperature = own(objectives, *args), objectives.model.temperature
        return losses | {"itc": losses["itc"] + (temperature - temperature.detach()).abs().sqrt()}

    monkeypatch.setattr(Objectives, "forward", with_infinite_slope)
    message = refused(train_command, [*debug_settings(), "--output", str(started), "--resume"], capsys)
    assert "step 3: " in message
    assert "is not finite after it" in message
    assert (started / "last.pth").read_bytes() == half_run
    monkeypatch.setattr(Objectives, "forward", own)
    assert len(train_and_record([*debug_settings(), "--output", str(started), "--resume"])) == 4


def test_a_learning_rate_far_too_high(debug_settings, tmp_path, capsys):
    rates = ("optimizer.lr=1e30", "optimizer.lr_new=1e30", "schedule.warmup_steps=0")
    message = refused(train_command, [*debug_settings(*rates), "--output", str(tmp_path / "run")], capsys)
    assert "step 2: " in message
    assert "lower optimizer.lr" in message


# ---- disk full ----


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError(
            "[enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file data/3\nmore"
        ),
    ],
    ids=["of the system", "of torch"],
)
def test_disk_full_while_saving(debug_settings, started, half_run, monkeypatch, capsys, error):
    def full(content, file):
        file.write(b"part of it")
        raise error

    monkeypatch.setattr(training.checkpoint.torch, "save", full)
    message = refused(train_command, [*debug_settings(), "--output", str(started), "--resume"], capsys)
    assert f"cannot write checkpoint {started}" in message
    assert ("No space left" in message) or ("PytorchStreamWriter failed" in message)
    monkeypatch.undo()
    assert (started / "last.pth").read_bytes() == half_run
    assert not list(started.glob("*.tmp"))
    assert len(train_and_record([*debug_settings(), "--output", str(started), "--resume"])) == 4
