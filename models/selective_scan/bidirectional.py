"""Both directions of a Mamba mixer between in_proj and out_proj, fused as far as the backend can.

B batch, L length, E inner width, N state, R rank of the step size, K taps. Between the fused parts, which are
convolution with SiLU and then softplus, scan, sum and gate, lie matrix products that are best left to the library.
Nothing is flipped, unless a backend needs it: convolution and scan run backwards. Both directions lie in one tensor, so
that each step is one launch for both; where gradients are wanted, `MixerNode` takes them by hand for the same reason.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.selective_scan import triton_conv, triton_scan
from models.selective_scan.conv_operator import ConvOperator
from models.selective_scan.cpu_conv import can_convolve, conv_silu_cpu
from models.selective_scan.custom_operator import Kept, Targets
from models.selective_scan.directions import Direction, Scan
from models.selective_scan.interface import BACKENDS, choose_backend, scan_directions


class MixerWeights(NamedTuple):
    """The parameters of both directions; the first axis is the direction."""

    conv_weight: Tensor  # (2, E, K)
    conv_bias: Tensor  # (2, E)
    x_proj: Tensor  # (2, R + 2 * N, E)
    dt_proj: Tensor  # (2, E, R)
    dt_bias: Tensor  # (2, E)
    A_log: Tensor  # (2, E, N)
    D: Tensor  # (2, E)


def bidirectional_mamba(xz: Tensor, weights: MixerWeights, *, scale: float = 1.0, backend: str = "auto") -> Tensor:
    """xz (B, L, 2 * E), of which x is the first half -> scale * the sum of both directions, gated by z (B, L, E)."""
    x, z = xz.chunk(2, dim=-1)
    differentiated = torch.is_grad_enabled() and any(each.requires_grad for each in (xz, *weights))
    if differentiated and not torch.compiler.is_exporting() and xz.numel() > 0:
        chosen = choose_backend(backend, xz.device.type, xz.dtype, weights.A_log.shape[-1])
        conv, scan = conv_operator(x, weights.conv_weight), BACKENDS[chosen].operator
        if conv is not None and scan is not None:
            return MixerNode.apply(xz, *_readable(weights, xz.dtype), scale, conv, scan)
    u = conv_silu(x, weights.conv_weight, weights.conv_bias)
    projected, delta = _project(u, weights)
    return scan_directions(_scan_of(u, delta, projected, z, weights, scale), backend)


def _readable(weights: MixerWeights, dtype: torch.dtype) -> MixerWeights:
    """Factors of products in dtype, the others in float32, as the kernels read them."""
    factors = ("x_proj", "dt_proj")
    return MixerWeights(
        **{
            name: each.to(dtype) if name in factors else each.float().contiguous()
            for name, each in weights._asdict().items()
        }
    )


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Depthwise convolution and SiLU: x (B, L, E) -> (2, B, L, E), the second looking ahead."""
    operator = conv_operator(x, weight)
    if operator is not None:
        return operator(x, weight, bias)
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    (channels, taps), sequence = weight.shape[1:], x.transpose(1, 2)
    before, behind = F.pad(sequence, (taps - 1, 0)), F.pad(sequence, (0, taps - 1))  # (B, E, L + K - 1)
    first = F.conv1d(before, weight[0].unsqueeze(1), bias[0], groups=channels)
    second = F.conv1d(behind, weight[1].flip(-1).unsqueeze(1), bias[1], groups=channels)
    return torch.stack([F.silu(each).transpose(1, 2) for each in (first, second)])


def conv_operator(x: Tensor, weight: Tensor) -> ConvOperator | None:
    """What convolves such tensors; None where it is left to PyTorch."""
    if can_convolve(x, weight):
        return conv_silu_cpu
    return triton_conv.conv_silu_triton if x.numel() > 0 and _has_triton(x.device.type, x.dtype) else None


@torch.compiler.assume_constant_result
def _has_triton(device_type: str, dtype: torch.dtype) -> bool:
    return triton_scan.obstacle(device_type, dtype, 1) is None


def _project(u: Tensor, weights: MixerWeights) -> tuple[Tensor, Tensor]:
    """u (2, B, L, E) -> (step size of rank R, B, C) side by side (2, B * L, R + 2 * N), and step size (2, B * L, E)."""
    projected = torch.bmm(u.flatten(1, 2), weights.x_proj.transpose(1, 2))
    return projected, torch.bmm(projected[..., : weights.dt_proj.shape[2]], weights.dt_proj.transpose(1, 2))


def _scan_of(u: Tensor, delta: Tensor, projected: Tensor, z: Tensor, weights: MixerWeights, scale: float) -> Scan:
    """What the scan reads: u (2, B, L, E), z (B, L, E), the results of `_project`, and the parameters."""
    B, C = _B_and_C(projected, weights, u.shape[1:3]).unbind(1)
    of_each = (u, delta.view(u.shape), weights.A_log, B, C, weights.D, weights.dt_bias)
    fields = zip(*(each.unbind() for each in of_each), (False, True), strict=True)
    return Scan(tuple(map(Direction._make, fields)), z, delta_softplus=True, log_A=True, scale=scale)


def _B_and_C(projected: Tensor, weights: MixerWeights, sizes: Sequence[int]) -> Tensor:
    """(2, B * L, R + 2 * N) -> (2, B and C, batch, group, L, N), a view. sizes: batch and L."""
    state = weights.A_log.shape[2]
    columns = projected[..., weights.dt_proj.shape[2] :].unflatten(-1, (2, state)).unflatten(1, sizes)
    return columns.permute(0, 3, 1, 2, 4).unsqueeze(3)  # one group


class MixerNode(torch.autograd.Function):
    """`bidirectional_mamba` with a backward pass by hand, so that gradients are written where they are used.

    Autograd would join those of x and z, of the two directions and of what x_proj gives by copies and additions.
    """

    @staticmethod
    def forward(ctx: Any, xz: Tensor, *arguments: Any) -> Tensor:
        *tensors, scale, conv, scan_operator = arguments
        weights = MixerWeights(*tensors)
        x, z = xz.chunk(2, dim=-1)
        u = conv(x, weights.conv_weight, weights.conv_bias)
        projected, delta = _project(u, weights)
        out, kept = scan_operator.forward(_scan_of(u, delta, projected, z, weights, scale), keep=True)
        ctx.save_for_backward(xz, u, projected, delta, *kept, *weights)
        ctx.scale, ctx.conv, ctx.scan_operator = scale, conv, scan_operator
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        xz, u, projected, delta, y, states, *tensors = ctx.saved_tensors
        weights = MixerWeights(*tensors)
        x, z = xz.chunk(2, dim=-1)
        grad_xz, grad_projected = torch.empty_like(xz), torch.empty_like(projected)
        grad_x, grad_z = grad_xz.chunk(2, dim=-1)

        scan = _scan_of(u, delta, projected, z, weights, ctx.scale)
        targets = Targets(grad_z, _B_and_C(grad_projected, weights, u.shape[1:3]))
        of_scan = ctx.scan_operator.backward(scan, grad_out, Kept(y, states), targets)
        grad_u, grad_delta = of_scan.u.flatten(1, 2), of_scan.delta.flatten(1, 2)  # (2, B * L, E)

        rank = weights.dt_proj.shape[2]
        _bmm_into(grad_projected[..., :rank], grad_delta, weights.dt_proj)
        grad_u.baddbmm_(grad_projected, weights.x_proj)
        gradients = {
            "x_proj": torch.bmm(grad_projected.transpose(1, 2), u.flatten(1, 2)),
            "dt_proj": torch.bmm(grad_delta.transpose(1, 2), projected[..., :rank]),
            "dt_bias": of_scan.delta_bias,
            "A_log": of_scan.A,
            "D": of_scan.D,
        }
        of_conv = ctx.conv.backward(of_scan.u, x, weights.conv_weight, weights.conv_bias, grad_x)
        return grad_xz, *MixerWeights(*of_conv, **gradients), None, None, None


def _bmm_into(target: Tensor, left: Tensor, right: Tensor) -> None:
    """target, which may be a slice of a wider tensor, becomes left @ right."""
    if torch.compiler.is_compiling():  # out= must be dense there
        target.copy_(torch.bmm(left, right))
    else:
        torch.bmm(left, right, out=target)
