"""What a backend computes: a `Scan`, which is one `Direction` or two with a common gate.

Sequences are (batch, length, dim), with any strides; reference.py has the formulas.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Direction(NamedTuple):
    """One pass over a sequence. Channel d uses group d // (dim / groups) of B and C."""

    u: Tensor  # (batch, length, dim)
    delta: Tensor  # (batch, length, dim)
    A: Tensor  # (dim, state); log(-A) where Scan.log_A is set
    B: Tensor  # (batch, groups, length, state)
    C: Tensor  # (batch, groups, length, state)
    D: Tensor | None  # (dim,)
    delta_bias: Tensor | None  # (dim,)
    reverse: bool  # from the last position to the first


class Scan(NamedTuple):
    """scale * silu(z) * the sum over the directions, shaped like u. All directions have the same shapes and dtypes."""

    directions: tuple[Direction, ...]  # one, or two that run opposite ways
    z: Tensor | None  # (batch, length, dim); None: no gate
    delta_softplus: bool
    log_A: bool
    scale: float

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors except None: those of each direction in the order of its fields, then z."""
        fields = [x for each in self.directions for x in each[:-1]] + [self.z]
        return [x for x in fields if x is not None]

    @property
    def is_empty(self) -> bool:
        return self.directions[0].u.numel() == 0

    def with_plain_A(self) -> "Scan":
        """The same scan with A instead of log(-A), in the dtype that the arithmetic has."""
        if not self.log_A:
            return self
        dtype = arithmetic_dtype(self.directions[0].u)
        directions = tuple(each._replace(A=-torch.exp(each.A.to(dtype))) for each in self.directions)
        return self._replace(directions=directions, log_A=False)

    def combine(self, outputs: Sequence[Tensor]) -> Tensor:
        """The result, given silu(z) * y of each direction."""
        total = outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1]
        return total if self.scale == 1.0 else total * self.scale


def arithmetic_dtype(u: Tensor) -> torch.dtype:
    """float64 if u is float64, else float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32
