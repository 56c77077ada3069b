"""Checkpoints of random models, for the tests of commands that read them."""

from pathlib import Path

import torch

from models.build import build_model
from training.checkpoint import save_checkpoint
from utils.config import Config


def save_random_model(config: Config, path: Path, seed: int = 0) -> Path:
    """A whole model as best.pth of a run holds it."""
    torch.manual_seed(seed)
    model = build_model(config)
    save_checkpoint({"model": model.state_dict(), "config": config.as_dict(), "step": 0, "best": 0.0}, path)
    return path
