"""Everything that changes while a model trains: what a checkpoint holds and a resumed run continues from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import Config
from utils.distributed import Process, gather_objects
from utils.errors import UserError
from utils.optimizer import build_schedule, parameter_groups
from utils.seed import get_random_state, set_random_state

MAY_CHANGE = (  # keys of the configuration, or whole sections, that a resumed run need not agree on
    "dataset.root",
    "dataset.workers",
    "dataset.cache",
    "dataset.on_bad_image",
    "model.image_encoder.scan_backend",
    "init",
    "train.precision",
    "train.log_every_steps",
    "train.stop_after_steps",
    "eval.batch_size",
    "eval.rerank_top_k",
    "eval.every",
    "eval.tail",
    "debug",
)


@dataclass
class TrainState:
    """Modules and counters of a run. filled: names of the parameters that a checkpoint filled (they train at lr)."""

    model: nn.Module
    momentum_encoder: nn.Module
    queue: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    filled: list[str]
    step: int = 0  # optimiser steps done
    epoch: int = 0  # the present one
    batch: int = 0  # batches done of it
    best: float = -1.0  # R@1 of the best evaluation so far, in percent
    sums: dict[str, float] = field(default_factory=dict)  # over the epoch's batches so far: losses, seconds, images


COUNTERS = ("filled", "step", "epoch", "batch", "best", "sums")
MODULES = ("model", "momentum_encoder", "queue", "optimizer", "schedule")


def build_state(
    model: nn.Module,
    momentum_encoder: nn.Module,
    queue: nn.Module,
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
    return TrainState(model, momentum_encoder, queue, optimizer, schedule, filled)


def save_state(state: TrainState, path: Path, config: Config, process: Process) -> None:
    """Write the whole state; to be called by every process, as each has random states of its own."""
    random_states = gather_objects(get_random_state())
    if process.is_main:
        content: dict[str, Any] = {name: getattr(state, name).state_dict() for name in MODULES}
        content |= {name: getattr(state, name) for name in COUNTERS}
        save_checkpoint({**content, "random_states": random_states, "config": config.as_dict()}, path)


def save_model(state: TrainState, path: Path, config: Config) -> None:
    """Write what evaluation needs: the model without optimiser, momentum copies and queue."""
    content = {"model": state.model.state_dict(), "config": config.as_dict(), "step": state.step, "best": state.best}
    save_checkpoint(content, path)


def read_state(path: Path, config: Config) -> dict[str, Any]:
    """Read a checkpoint of save_state.

    Raises: UserError if it holds no training state, or if the run was configured otherwise in what cannot change.
    """
    content = load_checkpoint(path)
    if "optimizer" not in content:
        raise UserError(
            f"{path} holds a model without its training state; resume from last.pth, or start from it by --init"
        )
    then = dict(_flattened(content["config"]))
    for key, value in _flattened(config.as_dict()):
        if then.get(key) != value and not f"{key}.".startswith(tuple(f"{name}." for name in MAY_CHANGE)):
            raise UserError(
                f"{path} was trained with {key} = {then.get(key)}, now it is {value}: "
                "resume with the same configuration, or start anew from these weights by --init"
            )
    return content


def _flattened(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested sections."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def restore_state(state: TrainState, content: dict[str, Any], process: Process) -> None:
    """Continue exactly where the checkpoint was written, random states included."""
    for name in MODULES:
        getattr(state, name).load_state_dict(content[name])
    for name in COUNTERS:
        setattr(state, name, content[name])
    random_states = content["random_states"]
    if process.rank < len(random_states):  # a run on more processes than before draws anew in the added ones
        set_random_state(random_states[process.rank])
