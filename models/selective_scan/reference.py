"""Selective scan as a readable loop: the definition that every other backend is tested against.

Per batch item, channel d and state n, with Delta = softplus(delta + delta_bias) (or delta + delta_bias):

    x[t] = exp(Delta[t] * A[n]) * x[t-1] + Delta[t] * B[n, t] * u[t]
    y[t] = sum_n C[n, t] * x[t] + D * u[t]
    out[t] = y[t] * silu(z[t])

Source: Mamba (arXiv:2312.00752), section 3.3 with the zero-order hold on A and the Euler step on B.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.selective_scan.directions import Direction, Scan, arithmetic_dtype

# (u, Delta, A, B, C, reverse) -> sum_n C[n, t] * x[t]. u, Delta and the result are (batch, dim, length), A is
# (dim, state), B and C are (batch, groups, length, state).
Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool], Tensor]


def scan_reference(scan: Scan) -> Tensor:
    """Compute the scan in float64 if u is float64, else in float32. The caller checks the shapes."""
    return scan_by_recurrence(scan, _recurrence)


def _recurrence(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> Tensor:
    # Unbinding keeps the backward pass linear in the length: indexing would make a full-size gradient for every step.
    groups = B.shape[1]
    A = A.unflatten(0, (groups, -1))  # (groups, dim / groups, state)
    split = (each.unflatten(1, (groups, -1)).unbind(-1) for each in (delta, delta * u))  # (batch, groups, dim / groups)
    steps = list(zip(*split, *(x.mT.unsqueeze(2).unbind(-1) for x in (B, C)), strict=True))
    state = u.new_zeros(len(u), *A.shape)
    outputs = []
    for delta_t, delta_u_t, B_t, C_t in reversed(steps) if reverse else steps:
        state = torch.exp(delta_t[..., None] * A) * state + delta_u_t[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    return torch.stack(outputs[::-1] if reverse else outputs, dim=-1).flatten(1, 2)


def scan_by_recurrence(scan: Scan, recurrence: Recurrence) -> Tensor:
    """Compute the scan with a function for the recurrence alone, one direction at a time."""
    return scan.combine([_scan_direction(each, scan, recurrence) for each in scan.with_plain_A().directions])


def _scan_direction(direction: Direction, scan: Scan, recurrence: Recurrence) -> Tensor:
    """silu(z) * y of one direction: (batch, length, dim)."""
    dtype = arithmetic_dtype(direction.u)
    u, delta = (x.transpose(1, 2).to(dtype) for x in (direction.u, direction.delta))  # (batch, dim, length)
    if direction.delta_bias is not None:
        delta = delta + direction.delta_bias.to(dtype)[:, None]
    if scan.delta_softplus:
        delta = F.softplus(delta)
    A, B, C = (x.to(dtype) for x in (direction.A, direction.B, direction.C))
    y = recurrence(u, delta, A, B, C, direction.reverse)
    if direction.D is not None:
        y = y + direction.D.to(dtype)[:, None] * u
    if scan.z is not None:
        y = y * F.silu(scan.z.transpose(1, 2).to(dtype))
    return y.to(direction.u.dtype).transpose(1, 2)
