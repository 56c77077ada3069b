"""Golden vectors: numbers computed with the published implementations; see tests/parity/README.md."""

import json
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.helpers.paths import VECTORS


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a case such as "vim_block/d48_L17_div": its JSON description and its tensors by name."""
    path = VECTORS / name
    return json.loads(path.with_suffix(".json").read_text()), load_file(path.with_suffix(".safetensors"))


def starting_with(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name starts with prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
