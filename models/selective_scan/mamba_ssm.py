"""Selective scan by the CUDA kernels of stock mamba-ssm (2.2 or later), which `requirements-cuda.txt` installs.

Its kernels scan forwards only and want time as the fastest axis, so what comes otherwise is flipped and copied. Both
directions of a layer go as one call, the second one as a second group of channels.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.selective_scan.reference import selective_scan_reference
from models.selective_scan.self_test import trouble

DEVICE_TYPE = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_STATE = 256
MODULE = "mamba_ssm.ops.selective_scan_interface"


def obstacle(device_type: str, dtype: torch.dtype, state: int) -> str | None:
    """Why mamba-ssm cannot work on such tensors, or None where it can. The first call with a GPU runs a self-test."""
    if device_type != DEVICE_TYPE:
        return f"it needs tensors on a GPU, not on {device_type}"
    if dtype not in DTYPES:
        return f"it takes float32, bfloat16 or float16, not {dtype}"
    if state > MAX_STATE:
        return f"it keeps at most {MAX_STATE} states per channel, not {state}"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed (pip install --no-build-isolation -r requirements-cuda.txt)"
    return trouble(selective_scan_mamba_ssm, device_type)


def selective_scan_mamba_ssm(
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
    """As `selective_scan_reference`, but u must be of a dtype in DTYPES, and what goes with it takes that dtype."""
    if u.numel() == 0:  # the kernels are not made for a launch without work
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    sequences = [None if x is None else x.to(u.dtype) for x in (u, delta, B, C, z)]
    if reverse:
        sequences = [None if x is None else x.flip(-1) for x in sequences]
    u_, delta_, B_, C_, z_ = sequences
    parameters = [None if x is None else x.float() for x in (A, D, delta_bias)]
    A_, D_, bias_ = parameters
    out = _selective_scan_fn()(u_, delta_, A_, B_, C_, D_, z_, bias_, delta_softplus)
    return out.flip(-1) if reverse else out


def scan_directions_mamba_ssm(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A_log: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Forward and backward direction of a mixer; arguments and result as `bidirectional.scan_both` has them."""

    def groups(of_first: Tensor, of_second: Tensor) -> Tensor:
        """(batch, length, channels) twice -> (batch, 2 * channels, length), the second reversed in time."""
        return torch.cat((of_first.transpose(1, 2), of_second.transpose(1, 2).flip(-1)), dim=1)

    out = selective_scan_mamba_ssm(
        groups(*u),
        groups(*delta),
        -torch.cat(list(A_log)).float().exp(),
        groups(*B).unflatten(1, (2, -1)),
        groups(*C).unflatten(1, (2, -1)),
        torch.cat(list(D)),
        groups(z, z),
        torch.cat(list(delta_bias)),
        True,
        False,
    )
    first, second = out.chunk(2, dim=1)
    return ((first + second.flip(-1)) * scale).transpose(1, 2)


def _selective_scan_fn() -> Callable[..., Tensor]:
    return torch.compiler.disable(importlib.import_module(MODULE).selective_scan_fn)
