"""Selective scan by the CUDA kernels of stock mamba-ssm (2.2 or later), which `requirements-cuda.txt` installs.

Its kernels scan forwards only and need time as the fastest axis, so inputs are flipped and copied. Both directions of a
layer are one call, with the second direction as a second group of channels.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.selective_scan.directions import Scan
from models.selective_scan.reference import scan_reference
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
    return trouble(scan_mamba_ssm, device_type)


def scan_mamba_ssm(scan: Scan) -> Tensor:
    """Compute the scan; u has a dtype in DTYPES. The other sequences, B and C are converted to that dtype."""
    if scan.is_empty:  # the kernels cannot be launched without work
        return scan_reference(scan)
    u, delta, A, B, C, D, delta_bias, reverse = zip(*scan.with_plain_A().directions, strict=True)

    def grouped(of_each: Sequence[Tensor]) -> Tensor:
        """(batch, ..., length, channels) of each direction -> side by side, with time last and in the scan's order."""
        time_last = [x.to(u[0].dtype).transpose(-1, -2) for x in of_each]
        return torch.cat([_turned(*each) for each in zip(time_last, reverse, strict=True)], dim=1)

    out = _selective_scan_fn()(
        grouped(u),
        grouped(delta),
        torch.cat(A).float(),
        grouped(B),
        grouped(C),
        None if D[0] is None else torch.cat(D).float(),
        None if scan.z is None else grouped([scan.z] * len(u)),
        None if delta_bias[0] is None else torch.cat(delta_bias).float(),
        scan.delta_softplus,
    )
    outputs = [_turned(*each) for each in zip(out.chunk(len(u), dim=1), reverse, strict=True)]
    return scan.combine(outputs).transpose(1, 2)


def _turned(x: Tensor, reverse: bool) -> Tensor:
    return x.flip(-1) if reverse else x


def _selective_scan_fn() -> Callable[..., Tensor]:
    return torch.compiler.disable(importlib.import_module(MODULE).selective_scan_fn)
