"""Checkpoints of random models, for the tests of commands that read them."""

from pathlib import Path

import torch

from dataset.tokenizer import load_tokenizer
from training.checkpoint import save_checkpoint
from training.objectives import build_objectives, build_trained_model
from utils.config import Config


def save_random_model(config: Config, path: Path, seed: int = 0, *, head_scale: float = 1.0) -> Path:
    """A checkpoint with all parts that training saves.

    head_scale: factor on the weights of the projections and the matching head. Untrained ones score all pairs alike.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    model = build_trained_model(config, build_objectives(config, tokenizer))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("itm_head", "vision_proj", "text_proj")):
                parameter.mul_(head_scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"model": model.state_dict(), "config": config.as_dict(), "step": 0, "best": 0.0}, path)
    return path


def save_search_model(config: Config, path: Path, seed: int = 0) -> Path:
    """A checkpoint whose scores differ from image to image."""
    return save_random_model(config, path, seed, head_scale=20.0)
