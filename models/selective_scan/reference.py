"""Selective scan as a readable loop: the definition that every other backend is tested against.

Per batch item, channel d and state n, with Delta = softplus(delta + delta_bias) (or delta + delta_bias):

    x[t] = exp(Delta[t] * A[n]) * x[t-1] + Delta[t] * B[n, t] * u[t]
    y[t] = sum_n C[n, t] * x[t] + D * u[t]
    out[t] = y[t] * silu(z[t])

Source: Mamba (arXiv:2312.00752), section 3.3 with the zero-order hold on A and the Euler step on B.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """Scan u (batch, dim, length) with B, C (batch, groups, state, length); gradients by autograd.

    Computes in float64 where u is float64, else in float32; the result has u's dtype. The caller checks the shapes.
    """
    out_dtype, groups = u.dtype, B.shape[1]
    dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)

    # Unbinding keeps the backward pass linear in the length: indexing would make a full-size gradient for every step.
    A = A.unflatten(0, (groups, -1))  # (groups, dim / groups, state)
    split = (each.unflatten(1, (groups, -1)).unbind(-1) for each in (delta, delta * u))  # (batch, groups, dim / groups)
    steps = list(zip(*split, B.unsqueeze(2).unbind(-1), C.unsqueeze(2).unbind(-1), strict=True))
    state = u.new_zeros(len(u), *A.shape)
    outputs = []
    for delta_t, delta_u_t, B_t, C_t in reversed(steps) if reverse else steps:
        state = torch.exp(delta_t[..., None] * A) * state + delta_u_t[..., None] * B_t
        outputs.append((state * C_t).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=-1).flatten(1, 2)  # (batch, dim, length)

    if D is not None:
        y = y + D.to(dtype)[:, None] * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(out_dtype)
