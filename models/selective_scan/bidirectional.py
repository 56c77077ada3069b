"""Both directions of a Mamba mixer between in_proj and out_proj, fused as far as the backend can.

B batch, L length, E inner width, N state, R rank of the step size, K taps. Between the fused parts, which are
convolution with SiLU and then softplus, scan, sum and gate, lie matrix products that are best left to the library.
Nothing is flipped, unless a backend needs it: convolution and scan run backwards.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.selective_scan import triton_conv, triton_scan
from models.selective_scan.cpu_conv import can_convolve, conv_silu_cpu
from models.selective_scan.directions import Direction, Scan
from models.selective_scan.interface import scan_directions


class DirectionWeights(NamedTuple):
    """The parameters of one direction, as Vim's checkpoints hold them."""

    conv_weight: Tensor  # (E, 1, K)
    conv_bias: Tensor  # (E,)
    x_proj: Tensor  # (R + 2 * N, E)
    dt_proj: Tensor  # (E, R)
    dt_bias: Tensor  # (E,)
    A_log: Tensor  # (E, N)
    D: Tensor  # (E,)


def bidirectional_mamba(
    x: Tensor,
    z: Tensor,
    forward: DirectionWeights,
    backward: DirectionWeights,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """x, z (B, L, E) -> scale * the sum of both directions, gated by z (B, L, E)."""
    u, u_b = conv_silu(x, forward, backward)
    directions = _direction(u, forward, reverse=False), _direction(u_b, backward, reverse=True)
    return scan_directions(Scan(directions, z, delta_softplus=True, log_A=True, scale=scale), backend)


def _direction(u: Tensor, weights: DirectionWeights, *, reverse: bool) -> Direction:
    """What the scan reads: u (B, L, E), and the step size, B and C that are projected from it."""
    rank, state = weights.dt_proj.shape[1], weights.A_log.shape[1]
    dt, B, C = F.linear(u, weights.x_proj).split([rank, state, state], dim=-1)
    delta = F.linear(dt, weights.dt_proj)  # (B, L, E)
    B, C = B.unsqueeze(1), C.unsqueeze(1)  # (B, 1, L, N): one group
    return Direction(u, delta, weights.A_log, B, C, weights.D, weights.dt_bias, reverse)


def conv_silu(x: Tensor, forward: DirectionWeights, backward: DirectionWeights) -> tuple[Tensor, Tensor]:
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
