"""Files of checkpoints of other programs, and what a model took from one."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_taken(model: nn.Module, donor: nn.Module, names: Collection[str]) -> None:
    own, expected = model.state_dict(), donor.state_dict()
    assert names
    for name in names:
        assert torch.equal(own[name], expected[name]), name


def vim_file(donor: Any, **more: Any) -> dict[str, Tensor]:
    """A Vim's tensors by its own names, with a classification head."""
    return {**donor.image_encoder.state_dict(), "head.weight": torch.randn(5, 16), "head.bias": torch.zeros(5), **more}
