"""Everything that changes while a model trains: what a checkpoint holds and a resumed run continues from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.momentum import MomentumEncoder
from models.person_search import PersonSearchModel
from models.queue import FeatureQueue
from training.checkpoint import LAST, CheckpointWriter, load_checkpoint, on_cpu
from training.optimizer import build_schedule, optimizer_state, parameter_groups
from training.parallel import is_sharded, shard_like
from utils.config import Config
from utils.distributed import Process, gather_objects
from utils.errors import UserError
from utils.precision import gradient_scaler
from utils.pretrained import check_finite
from utils.seed import get_random_state, seed_everything, set_random_state

MAY_CHANGE = (  # keys of the configuration, or whole sections, that a resumed run need not agree on
    "dataset.root",
    "dataset.workers",
    "dataset.cache",
    "dataset.on_bad_image",
    "model.image_encoder.scan_backend",
    "init",
    "train.batch_size",  # what must stay is the number of samples of a step, over all processes
    "train.accumulate",
    "train.precision",
    "train.compile",
    "train.cuda_graph",
    "train.activation_checkpointing",
    "train.sharding",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.stop_after_steps",
    "train.early_stopping",
    "eval.batch_size",
    "eval.rerank_top_k",
    "eval.rerank_similarity",
    "eval.every",
    "eval.tail",
    "debug",
)


@dataclass
class TrainState:
    """Modules and counters of a run. filled: names of the parameters that a checkpoint filled (they train at lr)."""

    model: PersonSearchModel
    momentum_encoder: MomentumEncoder
    queue: FeatureQueue
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler  # of fp16; in other precisions it does nothing
    filled: list[str]
    step: int = 0  # optimiser steps done
    epoch: int = 0  # the present one
    batch: int = 0  # steps done of it
    best: float = -1.0  # R@1 of the best evaluation so far, in percent
    stale: int = 0  # evaluations since then
    sums: dict[str, float] = field(default_factory=dict)  # over the epoch's batches so far: losses, seconds, images


COUNTERS = ("filled", "step", "epoch", "batch", "best", "stale", "sums")
MODULES = ("model", "momentum_encoder", "queue", "optimizer", "schedule")


def build_state(
    model: PersonSearchModel,
    momentum_encoder: MomentumEncoder,
    queue: FeatureQueue,
    config: Config,
    *,
    total_steps: int,
    filled: list[str],
) -> TrainState:
    """A run at its beginning: AdamW and a cosine with warm-up over total_steps."""
    groups = parameter_groups(
        model,
        filled=filled,
        lr=config.optimizer.lr,
        lr_new=config.optimizer.lr_new,
        weight_decay=config.optimizer.weight_decay,
    )
    optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.eps, fused=True)
    schedule = build_schedule(
        optimizer,
        total_steps=total_steps,
        warmup_steps=config.schedule.warmup_steps,
        final_factor=config.schedule.min_lr / config.optimizer.lr,
    )
    scaler = gradient_scaler(next(model.parameters()).device, config.train.precision)
    return TrainState(model, momentum_encoder, queue, optimizer, schedule, scaler, filled)


def check_weights(state: TrainState) -> None:
    """Raises: FloatingPointError if a step whose losses were finite has spoilt the weights; nothing is saved then."""
    for name, parameter in state.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(
                f"step {state.step}: {name} is not finite after it; the checkpoints written before are good, "
                "lower optimizer.lr"
            )


def save_state(state: TrainState, checkpoints: CheckpointWriter, config: Config, *, numbered: bool = False) -> None:
    """Write the whole state as last.pth, numbered: as step-NNNNNN.pth too.

    To be called by every process, as each has random states of its own, and maybe a share of the parameters.

    Raises: as check_weights.
    """
    check_weights(state)
    name = f"step-{state.step:06d}.pth" if numbered else LAST
    random_states = gather_objects(get_random_state())
    if checkpoints.enabled or is_sharded(state.model):
        content: dict[str, Any] = {module: getattr(state, module).state_dict() for module in (*MODULES, "scaler")}
        content["optimizer"] = optimizer_state(state.optimizer)
        content["schedule"]["_last_lr"] = [float(rate) for rate in content["schedule"]["_last_lr"]]
        content |= {counter: getattr(state, counter) for counter in COUNTERS}
        content |= {"random_states": random_states, "config": config.as_dict()}
        checkpoints.save(on_cpu(content), name)


def save_model(state: TrainState, checkpoints: CheckpointWriter, config: Config) -> None:
    """Write what evaluation needs as best.pth: the model without optimiser, momentum copies and queue."""
    if checkpoints.enabled or is_sharded(state.model):
        content = {"model": state.model.state_dict(), "config": config.as_dict()}
        checkpoints.save(on_cpu({**content, "step": state.step, "best": state.best}), "best.pth")


def read_state(path: Path, config: Config, *, world_size: int = 1) -> dict[str, Any]:
    """Read a checkpoint of save_state. The number of processes may differ, the samples of a step over all may not.

    Raises: UserError if it holds no training state, if weights are not finite, or if the run was configured otherwise
        in what cannot change.
    """
    content = load_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(
            f"{path} holds a model without its training state; resume from last.pth, or start from it by --init"
        )
    for name, tensor in (*content["model"].items(), *content["momentum_encoder"].items()):
        check_finite(name, tensor, path)
    then = dict(_flattened(content["config"]))
    for key, value in _flattened(config.as_dict()):
        if then.get(key) != value and not f"{key}.".startswith(tuple(f"{name}." for name in MAY_CHANGE)):
            raise UserError(
                f"{path} was trained with {key} = {then.get(key)}, now it is {value}: "
                "resume with the same configuration, or start anew from these weights by --init"
            )
    _check_batch(path, then["train.batch_size"], len(content["random_states"]), config.train.batch_size, world_size)
    return content


def _check_batch(path: Path, size_then: int, processes_then: int, size: int, processes: int) -> None:
    """The samples of a step set the schedule, the place in the epoch and the losses."""
    samples = size_then * processes_then
    if samples == size * processes:
        return
    remedy = "use a number of processes that divides them"
    if samples % processes == 0:
        remedy = f"set train.batch_size={samples // processes}"
    raise UserError(
        f"{path} was trained with train.batch_size = {size_then} on {processes_then} processes, {samples} samples a "
        f"step, now it is {size} on {processes}, {size * processes} samples a step: {remedy}"
    )


def _flattened(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def restore_state(state: TrainState, content: dict[str, Any], config: Config, process: Process) -> None:
    """Continue exactly where the checkpoint was written, random states included.

    On another number of processes the draws of masks and negatives are others, everything else is the same.
    """
    for name in MODULES:
        getattr(state, name).load_state_dict(shard_like(content[name], getattr(state, name)))
    if content.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict(content["scaler"])
    for name in COUNTERS:
        setattr(state, name, content.get(name, getattr(state, name)))  # one written before a counter was added
    random_states = content["random_states"]
    if process.rank < len(random_states):
        set_random_state(random_states[process.rank])
    else:  # not the seed of a new run, whose draws would come again
        seed_everything(config.train.seed + process.rank + len(random_states) * (state.step + 1))
