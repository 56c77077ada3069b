"""Both directions of a Mamba mixer between in_proj and out_proj, fused as far as the backend can.

B batch, L length, E inner width, N state, R rank of the step size, K taps. Between the fused parts, which are
convolution with SiLU and then softplus, scan, sum and gate, lie matrix products that are best left to the library.
Nothing is flipped, unless a backend needs it: convolution and scan run backwards.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.selective_scan import triton_conv, triton_scan
from models.selective_scan.cpu_conv import can_convolve, conv_silu_cpu
from models.selective_scan.interface import BACKENDS, choose_backend, selective_scan


class Direction(NamedTuple):
    """The parameters of one direction, as Vim's checkpoints hold them."""

    conv_weight: Tensor  # (E, 1, K)
    conv_bias: Tensor  # (E,)
    x_proj: Tensor  # (R + 2 * N, E)
    dt_proj: Tensor  # (E, R)
    dt_bias: Tensor  # (E,)
    A_log: Tensor  # (E, N)
    D: Tensor  # (E,)


def bidirectional_mamba(
    x: Tensor, z: Tensor, forward: Direction, backward: Direction, *, scale: float = 1.0, backend: str = "auto"
) -> Tensor:
    """x, z (B, L, E) -> scale * the sum of both directions, gated by z (B, L, E)."""
    directions, (rank, state) = (forward, backward), (forward.dt_proj.shape[1], forward.A_log.shape[1])
    u = conv_silu(x, forward, backward)
    projected = [F.linear(u_d, d.x_proj) for u_d, d in zip(u, directions, strict=True)]  # (B, L, R + 2 * N) each
    dt, B, C = zip(*(each.split([rank, state, state], dim=-1) for each in projected), strict=True)
    delta = [F.linear(dt_d, d.dt_proj) for dt_d, d in zip(dt, directions, strict=True)]  # (B, L, E) each
    return scan_both(
        u,
        delta,
        [d.A_log for d in directions],
        B,
        C,
        [d.D for d in directions],
        [d.dt_bias for d in directions],
        z,
        scale=scale,
        backend=backend,
    )


def conv_silu(x: Tensor, forward: Direction, backward: Direction) -> tuple[Tensor, Tensor]:
    """Depthwise convolution and SiLU: x (B, L, E) -> the same for both directions, the second looking ahead."""
    parameters = (forward.conv_weight, forward.conv_bias, backward.conv_weight, backward.conv_bias)
    if can_convolve(x, forward.conv_weight):
        return conv_silu_cpu(x, *parameters)
    if x.numel() > 0 and _has_triton(x.device.type, x.dtype):
        return triton_conv.conv_silu_triton(x, *parameters)
    weight, bias, weight_b, bias_b = (each.to(x.dtype) for each in parameters)
    (width, channels), sequence = (weight.shape[2], x.shape[2]), x.transpose(1, 2)
    before, behind = F.pad(sequence, (width - 1, 0)), F.pad(sequence, (0, width - 1))  # (B, E, L + K - 1)
    first = F.conv1d(before, weight, bias, groups=channels)
    second = F.conv1d(behind, weight_b.flip(-1), bias_b, groups=channels)
    return F.silu(first).transpose(1, 2), F.silu(second).transpose(1, 2)


@torch.compiler.assume_constant_result
def _has_triton(device_type: str, dtype: torch.dtype) -> bool:
    return triton_scan.obstacle(device_type, dtype, 1) is None


def scan_both(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A_log: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """scale * silu(z) * (scan forwards + scan backwards), with A = -exp(A_log) and the softplus of delta.

    Args, an entry for the forward and one for the backward direction: u, delta, z (B, L, E); A_log (E, N); B, C
    (B, L, N); D, delta_bias (E,).
    Returns: (B, L, E) in u's dtype.
    """
    name = choose_backend(backend, z.device.type, u[0].dtype, A_log[0].shape[1])
    both = BACKENDS[name].both
    if both is not None:
        return both(u, delta, A_log, B, C, D, delta_bias, z, scale=scale)
    sequences = zip(*([x.transpose(1, 2) for x in some] for some in (u, delta, B, C)), strict=True)
    out = [
        selective_scan(
            u_d,
            delta_d,
            -torch.exp(A_log[d].float() if A_log[d].dtype != torch.float64 else A_log[d]),
            B_d,
            C_d,
            D[d],
            z.transpose(1, 2),
            delta_bias[d],
            delta_softplus=True,
            reverse=d == 1,
            backend=name,
        )
        for d, (u_d, delta_d, B_d, C_d) in enumerate(sequences)
    ]
    return ((out[0] + out[1]) * scale).transpose(1, 2)
