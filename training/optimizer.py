"""Parameter groups and learning rates."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

POSITIONS_AND_STATES = (
    "pos_embed",
    "pos_embed_cls",
    "position_embeddings.weight",
    "A_log",
    "A_b_log",
    "cls_token",
    "mask_token",
)


def parameter_groups(
    model: nn.Module, *, filled: Collection[str], lr: float, lr_new: float, weight_decay: float
) -> list[dict]:
    """Split the trained parameters by learning rate, whose name is the group's, and decay: four groups at most, none
    empty.

    Args:
        filled: names that a checkpoint filled; they train at lr, all others at lr_new.
        weight_decay: of matrices; 1-d tensors, biases, scan states and position embeddings get none.
    """
    rates = {"lr": lr, "lr_new": lr_new}
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(POSITIONS_AND_STATES)
            key = ("lr" if name in filled else "lr_new", weight_decay if decayed else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": params, "name": name, "lr": rates[name], "weight_decay": decay}
        for (name, decay), params in groups.items()
    ]


def keep_rates_on(device: torch.device, optimizer: torch.optim.Optimizer) -> None:
    """Keep the learning rates on the device, where a CUDA graph reads them; the schedule writes them there.

    To be called again after the optimiser's state was loaded.
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        group["capturable"] = device.type == "cuda"


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict as checkpoints hold it, wherever the learning rates are kept."""
    content = optimizer.state_dict()
    for group in content["param_groups"]:
        group |= {"lr": float(group["lr"]), "capturable": False}
    return content


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The present rates by their names, lr and lr_new; one that no parameter trains at is absent."""
    rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
    return dict(sorted(rates.items()))


def build_schedule(
    optimizer: torch.optim.Optimizer, *, total_steps: int, warmup_steps: int, final_factor: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up from 0, then a cosine from 1 to final_factor at total_steps; counted in optimiser steps."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
