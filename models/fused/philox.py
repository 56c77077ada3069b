"""Triton's random numbers in PyTorch's integer arithmetic: what a kernel draws, drawn once more on any device.

Source: Philox 4x32-10 (doi:10.1145/2063384.2063405), as in `triton.language.rand4x`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
LOW_32 = 0xFFFFFFFF
NUMBERS = 4  # of one counter
UNIT = 4.6566127342e-10  # turns the largest 31-bit integer into a float32 below 1


class Dropout(NamedTuple):
    """Which elements of a tensor (rows, D) are dropped: always the same ones for the same seed and call.

    Without a seed PyTorch's own dropout draws them, in an operator of its own. On a CPU this is some ten times as fast.
    """

    prob: float
    seed: (
        Tensor | None
    )  # (1,) int64, on the tensor's device; another value in each step, not changed before its backward
    call: int  # number below 2^31 of the dropout among those with this seed


def philox(seed: Tensor, counter: Tensor, call: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four unsigned 32-bit integers for each entry of counter (any shape, int64, below 2^32), held in int64.

    Args: seed: (1,) int64, all of whose 64 bits count. call: the counter's next 32 bits.
    """
    c0, c2, c3 = counter, torch.zeros_like(counter), torch.zeros_like(counter)
    c1 = torch.full_like(counter, call)
    k0, k1 = seed & LOW_32, (seed >> 32) & LOW_32
    for _ in range(ROUNDS):
        # A product fills 64 bits. int64 holds the right ones: it wraps around, and the shift's copies of the sign go.
        from_0, from_2 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = (from_2 >> 32 & LOW_32) ^ c1 ^ k0, (from_0 >> 32 & LOW_32) ^ c3 ^ k1
        c1, c3 = from_2 & LOW_32, from_0 & LOW_32
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW_32, (k1 + KEY_STEPS[1]) & LOW_32
    return c0, c1, c2, c3


def uniform(seed: Tensor, call: int, rows: int, dim: int) -> Tensor:
    """(rows, dim) float32 in [0, 1). Four neighbours of a row share a counter; a row starts with a new one."""
    per_row = -(-dim // NUMBERS)
    counter = torch.arange(rows * per_row, device=seed.device)
    drawn = torch.stack(philox(seed, counter, call), dim=1).to(torch.int32)  # wraps to signed
    numbers = torch.where(drawn < 0, ~drawn, drawn) * UNIT
    return numbers.view(rows, per_row * NUMBERS)[:, :dim]
