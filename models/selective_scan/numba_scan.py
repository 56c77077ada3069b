"""Selective scan by loops that numba compiles, for machines without a C compiler. It is optional: `pip install numba`.

Only the recurrence and its gradient are compiled, in float32; bias, softplus, skip and gate are left to PyTorch.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.directions import Scan
from models.selective_scan.reference import scan_by_recurrence

NUMBA = "numba"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PARTS = 8  # of the channels, each with its own sum for the gradients of B and C; constant: sums have a fixed order


def obstacle(device_type: str, dtype: torch.dtype, state: int) -> str | None:
    """Why the loops cannot work on such tensors, or None where they can."""
    if device_type != "cpu":
        return f"it needs tensors on the CPU, not on {device_type}"
    if dtype not in DTYPES:
        return f"it computes in float32 and takes float32, bfloat16 or float16, not {dtype}"
    if importlib.util.find_spec(NUMBA) is None:
        return "numba is not installed"
    return None


def scan_numba(scan: Scan) -> Tensor:
    """Compute the scan; u has a dtype in DTYPES. The result has the memory order of u."""
    out, u = scan_by_recurrence(scan, _Recurrence.apply), scan.directions[0].u
    return out.contiguous() if u.stride(2) < u.stride(1) else out


class _Recurrence(torch.autograd.Function):
    """A `Recurrence` of reference.py, all tensors in float32."""

    @staticmethod
    @torch.compiler.disable
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> Tensor:
        from models.selective_scan.numba_loops import scan_forward, set_num_threads

        arguments = _time_last(u, delta, A, B, C)
        ctx.save_for_backward(*arguments)
        ctx.reverse = reverse
        y = torch.empty_like(arguments[0])
        set_num_threads(torch.get_num_threads())
        scan_forward(*(x.numpy() for x in arguments), y.numpy(), reverse)
        return y

    @staticmethod
    @torch.compiler.disable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from models.selective_scan.numba_loops import scan_backward, set_num_threads

        u, delta, A, B, C = ctx.saved_tensors
        batch, groups, length, state = B.shape
        parts = B.new_zeros(2, batch, groups, PARTS, length, state)
        grad_u, grad_delta, grad_A = torch.empty_like(u), torch.empty_like(u), A.new_empty(batch, *A.shape)
        arguments = (grad_y.contiguous(), u, delta, A, B, C, grad_u, grad_delta, grad_A, *parts)
        set_num_threads(torch.get_num_threads())
        scan_backward(*(x.numpy() for x in arguments), ctx.reverse)
        grad_B, grad_C = parts.sum(3)
        return grad_u, grad_delta, grad_A.sum(0), grad_B, grad_C, None


def _time_last(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> list[Tensor]:
    """Dense copies where needed: times of a channel, and states of a time, next to each other in memory."""
    return [x.detach().contiguous() for x in (u, delta, A, B, C)]
