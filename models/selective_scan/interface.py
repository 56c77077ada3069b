"""The choice among the backends, and the general form of the scan with its checks.

A backend is a function that computes a `Scan` (directions.py) and one that says whether it can work on given tensors.
To add one, add a row to `BACKENDS`.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.selective_scan import cpu, mamba_ssm, numba_scan, triton_scan
from models.selective_scan.custom_operator import ScanOperator
from models.selective_scan.directions import Direction, Scan
from models.selective_scan.reference import scan_reference
from utils.errors import UserError

logger = logging.getLogger(__name__)


class Backend(NamedTuple):
    scan: Callable[[Scan], Tensor]
    # (device type, dtype of u, state size) -> None if the backend can work on such tensors, else why not, in one line.
    obstacle: Callable[[str, torch.dtype, int], str | None]
    device_type: str | None = None  # the log mentions the obstacle on this type only; None: always
    operator: ScanOperator | None = None  # its passes, for a layer that takes gradients by hand; channel-last sequences


# In the order in which "auto" tries them; the last one always works.
BACKENDS = {
    "triton": Backend(triton_scan.scan_triton, triton_scan.obstacle, "cuda", triton_scan.scan_channel_last),
    "mamba-ssm": Backend(mamba_ssm.scan_mamba_ssm, mamba_ssm.obstacle, "cuda"),
    "cpu": Backend(cpu.scan_cpu, cpu.obstacle, "cpu", cpu.scan_cpu),
    "numba": Backend(numba_scan.scan_numba, numba_scan.obstacle, "cpu"),
    "reference": Backend(scan_reference, lambda device_type, dtype, state: None),
}


def scan_directions(scan: Scan, backend: str = "auto") -> Tensor:
    """Compute a scan, differentiable in all its tensors. Shapes are not checked.

    Raises: ValueError on an unknown backend or one that cannot work on these tensors.
    """
    u, A = scan.directions[0].u, scan.directions[0].A
    return BACKENDS[choose_backend(backend, u.device.type, u.dtype, A.shape[1])].scan(scan)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Selective state-space scan in one direction, differentiable in all tensors; reference.py has the formulas.

    Args:
        u, delta, z: (batch, dim, length), any strides. Channel-last memory, i.e. `x.transpose(1, 2)` of a contiguous
            (batch, length, dim), is the fastest on a CPU; the result and the gradients have u's memory order.
        A: (dim, state).
        B, C: (batch, state, length), or (batch, groups, state, length) with channel d using group d // (dim / groups),
            or constant over time: (dim, state).
        D, delta_bias: (dim,).
        delta_softplus: softplus(delta + delta_bias) instead of delta + delta_bias.
        reverse: scan from the last position to the first.
        backend: a name in BACKENDS or "auto".
    Returns: (batch, dim, length) in u's dtype; the state is kept in float32 (float64 where u is float64).
    Raises: ValueError on wrong shapes, an unknown backend or one that cannot work on these tensors.
    """
    _check_shapes(u, A, {"delta": delta, "z": z}, {"D": D, "delta_bias": delta_bias}, {"B": B, "C": C})
    B, C = _with_equal_groups(_with_groups(B, u), _with_groups(C, u), u.shape[1])
    of_time = u.transpose(1, 2), delta.transpose(1, 2)
    direction = Direction(*of_time, A, B.transpose(2, 3), C.transpose(2, 3), D, delta_bias, reverse)
    gate = None if z is None else z.transpose(1, 2)
    return scan_directions(Scan((direction,), gate, delta_softplus, log_A=False, scale=1.0), backend).transpose(1, 2)


@torch.compiler.assume_constant_result
def choose_backend(name: str, device_type: str, dtype: torch.dtype, state: int) -> str:
    """The name of the backend for such tensors: `name` itself, or what "auto" finds, which is logged once."""
    if name == "auto":
        return _first_available(device_type, dtype, state)
    if name not in BACKENDS:
        raise ValueError(f"selective_scan has no backend {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name].obstacle(device_type, dtype, state)
    if reason is not None:
        raise UserError(f"selective_scan backend {name!r} cannot be used: {reason}")
    return name


_CHOSEN: dict[tuple[str, torch.dtype, int], str] = {}  # what "auto" found: looked up and logged only once


def _first_available(device_type: str, dtype: torch.dtype, state: int) -> str:
    if (device_type, dtype, state) not in _CHOSEN:
        passed_over = []
        for name, backend in BACKENDS.items():
            reason = backend.obstacle(device_type, dtype, state)
            if reason is None:
                break
            if backend.device_type in (device_type, None):
                passed_over.append(f"not {name}: {reason}")
        why = f" ({'; '.join(passed_over)})" if passed_over else ""
        logger.info("selective scan on %s, %s: backend %s%s", device_type, dtype, name, why)
        _CHOSEN[device_type, dtype, state] = name
    return _CHOSEN[device_type, dtype, state]


def available_backends(device_type: str, dtype: torch.dtype, state: int = 16) -> list[str]:
    """Names of the backends that can work on such tensors, in order of preference."""
    return [name for name, backend in BACKENDS.items() if backend.obstacle(device_type, dtype, state) is None]


def _check_shapes(
    u: Tensor,
    A: Tensor,
    sequences: dict[str, Tensor | None],
    of_channels: dict[str, Tensor | None],
    projections: dict[str, Tensor],
) -> None:
    if u.ndim != 3 or u.shape[2] == 0:
        raise ValueError(f"selective_scan: u must be (batch, dim, length > 0), got {tuple(u.shape)}")
    batch, dim, length = u.shape
    for name, tensor in sequences.items():
        if tensor is not None and tensor.shape != u.shape:
            raise ValueError(
                f"selective_scan: {name} must be shaped like u {tuple(u.shape)}, got {tuple(tensor.shape)}"
            )
    if A.ndim != 2 or A.shape[0] != dim or A.shape[1] == 0:
        raise ValueError(f"selective_scan: A must be (dim = {dim}, state > 0), got {tuple(A.shape)}")
    for name, tensor in of_channels.items():
        if tensor is not None and tensor.shape != (dim,):
            raise ValueError(f"selective_scan: {name} must be (dim = {dim},), got {tuple(tensor.shape)}")
    state = A.shape[1]
    for name, projection in projections.items():
        shape = tuple(projection.shape)
        grouped = len(shape) == 4 and shape[1] > 0 and dim % shape[1] == 0 and shape == (batch, shape[1], state, length)
        if not grouped and shape not in ((batch, state, length), (dim, state)):
            raise ValueError(
                f"selective_scan: {name} must be (batch, state, length) = {(batch, state, length)}, the same with a "
                f"second axis of groups dividing dim = {dim}, or (dim, state) = {(dim, state)}, got {shape}"
            )


def _with_groups(x: Tensor, u: Tensor) -> Tensor:
    """B or C in any of its shapes -> a view (batch, groups, state, length)."""
    batch, dim, length = u.shape
    if x.ndim == 2:
        return x[None, :, :, None].expand(batch, dim, x.shape[1], length)
    return x if x.ndim == 4 else x.unsqueeze(1)


def _with_equal_groups(B: Tensor, C: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """B and C with the same number of groups: one per channel if they differ."""
    if B.shape[1] == C.shape[1]:
        return B, C
    return B.repeat_interleave(dim // B.shape[1], dim=1), C.repeat_interleave(dim // C.shape[1], dim=1)
