"""A small scan with its gradients, compared with the reference before a backend is used on a GPU.

A build for another version of torch or CUDA, or a missing compiler, shows only when a kernel runs.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from models.selective_scan.directions import Direction, Scan
from models.selective_scan.reference import scan_reference

TOLERANCE = 1e-3  # relative to the largest element


@functools.cache
def trouble(scan: Callable[[Scan], Tensor], device_type: str) -> str | None:
    """None if a backend's `scan` works on this device, else the reason in one line. Tried once per process."""
    try:
        deviation = _deviation(scan, device_type)
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return f"it is installed but does not work: {type(error).__name__}: {lines[0]}"
    if not deviation <= TOLERANCE:  # not `>`: NaN fails as well
        return f"it is installed but its self-test is {deviation:.1e} away from the reference"
    return None


def _deviation(scan: Callable[[Scan], Tensor], device_type: str) -> float:
    """The largest deviation of output and gradients from the reference, relative to the largest element of each."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
        problem, results = _like_a_mixer(device_type), []
        for each in (scan, scan_reference):
            out = each(problem)
            results.append([out, *torch.autograd.grad(out.square().sum(), problem.tensors)])
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(*results, strict=True))


def _like_a_mixer(device_type: str) -> Scan:
    """Both directions of a mixer with few states, more channels than a block of them, and an odd number of steps."""
    batch, length, dim, state = 2, 33, 40, 4
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device_type).requires_grad_()

    def direction(reverse: bool) -> Direction:
        sequence, projected = (batch, length, dim), (batch, 1, length, state)
        return Direction(
            u=normal(*sequence),
            delta=normal(*sequence),
            A=normal(dim, state),
            B=normal(*projected),
            C=normal(*projected),
            D=normal(dim),
            delta_bias=normal(dim),
            reverse=reverse,
        )

    directions = direction(reverse=False), direction(reverse=True)
    return Scan(directions, normal(batch, length, dim), delta_softplus=True, log_A=True, scale=0.5)
