"""What a checkpoint of a run holds, and what a resumed run may and may not change."""

import copy

import pytest
import torch

from models.build import build_model, build_momentum_encoder, build_queue
from training.checkpoint import CheckpointWriter, load_checkpoint
from training.optimizer import keep_rates_on
from training.state import MODULES, build_state, read_state, restore_state, save_model, save_state
from utils.distributed import Process, start
from utils.errors import UserError


def state_of(config, seed: int = 0):
    torch.manual_seed(seed)
    model = build_model(config)
    return build_state(
        model,
        build_momentum_encoder(model, config),
        build_queue(config),
        config,
        total_steps=10,
        filled=["temperature"],
    )


@pytest.fixture
def saved(debug_config, tmp_path):
    """A state after one step of the optimiser, and its file."""
    config = debug_config()
    state = state_of(config)
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.schedule.step()
    state.queue.push(torch.ones(3, 32), torch.ones(3, 32), torch.arange(3))
    state.step, state.batch, state.best, state.stale, state.sums = 1, 1, 12.5, 2, {"itc": 3.25}
    with CheckpointWriter(tmp_path, keep=1) as checkpoints:
        save_state(state, checkpoints, config)
    return state, tmp_path / "last.pth"


def test_everything_comes_back(debug_config, saved):
    state, path = saved
    expected_draw = torch.rand(3)
    other = state_of(debug_config(), seed=1)
    restore_state(other, read_state(path, debug_config()), debug_config(), start())
    assert torch.equal(torch.rand(3), expected_draw)
    for name in MODULES:
        own, restored = flat(getattr(state, name).state_dict()), flat(getattr(other, name).state_dict())
        assert own.keys() == restored.keys()
        for key, value in own.items():
            assert torch.equal(restored[key], value) if isinstance(value, torch.Tensor) else restored[key] == value, key
    counters = ("filled", "step", "epoch", "batch", "best", "stale", "sums")
    assert {name: getattr(other, name) for name in counters} == {name: getattr(state, name) for name in counters}


def flat(value, name: str = "") -> dict:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}").items()}
    return {name: value}


def test_what_must_agree_and_what_may_change(debug_config, saved):
    _, path = saved
    for setting, then in (("model.queue_size=65", "64"), ("losses.alpha=0.3", "0.4"), ("eval.select_on=test", "val")):
        key, now = setting.split("=")
        with pytest.raises(UserError, match=rf"was trained with {key} = {then}, now it is {now}: resume with the same"):
            read_state(path, debug_config(setting))
    free = (
        "dataset.workers=3",
        "train.stop_after_steps=9",
        "eval.every=2",
        "train.accumulate=4",
        "train.precision=bf16",
        "train.checkpoint_every_steps=7",
        "train.early_stopping=3",
        "model.image_encoder.scan_backend=reference",
    )
    assert read_state(path, debug_config(*free))["step"] == 1


def test_a_key_that_an_older_checkpoint_lacks_is_named(debug_config, saved):
    _, path = saved
    content = copy.deepcopy(load_checkpoint(path))
    del content["config"]["losses"]["alpha"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"was trained with losses\.alpha = None"):
        read_state(path, debug_config())


def test_the_model_alone_is_not_resumed(debug_config, saved):
    state, path = saved
    with CheckpointWriter(path.parent, keep=1) as checkpoints:
        save_model(state, checkpoints, debug_config())
    assert load_checkpoint(path.with_name("best.pth")).keys() == {"format", "model", "config", "step", "best"}
    with pytest.raises(UserError, match=r"without its training state; resume from last\.pth"):
        read_state(path.with_name("best.pth"), debug_config())


@pytest.mark.parametrize("part", ["model", "momentum_encoder"])
def test_weights_that_are_not_finite_are_not_resumed(debug_config, saved, part):
    _, path = saved
    content = torch.load(path)
    content[part]["vision_proj.bias"][0] = float("nan")
    torch.save(content, path)
    with pytest.raises(UserError, match=r"last\.pth: 1 of the 32 weights of vision_proj\.bias are NaN or infinite"):
        read_state(path, debug_config())


def test_a_run_resumes_from_the_names_of_a_compiled_model(debug_config, saved):
    state, path = saved
    content = torch.load(path)
    for part in ("model", "momentum_encoder"):
        content[part] = {f"_orig_mod.{name}": tensor for name, tensor in content[part].items()}
    torch.save(content, path)
    other = state_of(debug_config(), seed=1)
    restore_state(other, read_state(path, debug_config()), debug_config(), start())
    for own, restored in zip(state.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(own, restored)


def test_the_samples_of_a_step_stay_the_same_on_any_number_of_processes(debug_config, saved):
    """Written by one process in batches of 8."""
    _, path = saved
    assert read_state(path, debug_config("train.batch_size=4"), world_size=2)["step"] == 1
    assert read_state(path, debug_config("train.batch_size=2"), world_size=4)["step"] == 1
    with pytest.raises(
        UserError, match=r"train\.batch_size = 8 on 1 processes.* now it is 8 on 2.*set train\.batch_size=4$"
    ):
        read_state(path, debug_config(), world_size=2)
    with pytest.raises(UserError, match=r"8 samples a step.*use a number of processes that divides them"):
        read_state(path, debug_config(), world_size=3)


def test_an_added_process_draws_numbers_of_its_own(debug_config, saved):
    _, path = saved
    content = read_state(path, debug_config("train.batch_size=4"), world_size=2)
    draws = []
    for rank in (0, 1):
        process = Process(rank, 2, rank, torch.device("cpu"))
        restore_state(state_of(debug_config()), content, debug_config(), process)
        draws.append(torch.rand(3))
    torch.manual_seed(debug_config().train.seed + 1)
    draws.append(torch.rand(3))  # what rank 1 drew at the beginning of a run
    assert len({tuple(draw.tolist()) for draw in draws}) == 3


def test_rates_kept_on_a_device_are_plain_numbers_in_a_checkpoint(debug_config, saved, tmp_path):
    """So that a run goes on with or without CUDA graphs."""
    state, path = saved
    plain = load_checkpoint(path)
    keep_rates_on(torch.device("cpu"), state.optimizer)
    state.schedule.step()
    with CheckpointWriter(tmp_path / "graphs", keep=1) as checkpoints:
        (tmp_path / "graphs").mkdir()
        save_state(state, checkpoints, debug_config())
    other = load_checkpoint(tmp_path / "graphs" / "last.pth")
    assert all(isinstance(rate, float) for rate in other["schedule"]["_last_lr"])
    for own, group in zip(plain["optimizer"]["param_groups"], other["optimizer"]["param_groups"], strict=True):
        assert {key: type(value) for key, value in own.items()} == {key: type(value) for key, value in group.items()}
        assert group["lr"] == pytest.approx(1.5 * own["lr"])  # steps 2 and 3 of the warm-up
    resumed = state_of(debug_config(), seed=1)
    restore_state(resumed, other, debug_config(), start())
    assert all(isinstance(group["lr"], float) for group in resumed.optimizer.param_groups)
