"""Inputs, results and markers that the tests of the selective scan share."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import cpu, numba_scan, selective_scan
from models.selective_scan.directions import Direction, Scan

needs_kernel = pytest.mark.skipif(
    cpu.obstacle("cpu", torch.float32, 16) is not None, reason="the CPU kernel cannot be built here"
)
needs_numba = pytest.mark.skipif(
    numba_scan.obstacle("cpu", torch.float32, 16) is not None, reason="numba is not installed"
)


def make_inputs(
    batch: int = 2, dim: int = 6, length: int = 5, state: int = 3, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Arguments of `selective_scan`, with time as the fastest axis."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "u": (batch, dim, length),
        "delta": (batch, dim, length),
        "A": (dim, state),
        "B": (batch, state, length),
        "C": (batch, state, length),
        "D": (dim,),
        "z": (batch, dim, length),
        "delta_bias": (dim,),
    }
    inputs = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    return inputs | {"A": -inputs["A"].exp()}


def results_by_name(inputs: dict[str, Tensor], **options: Any) -> dict[str, Tensor]:
    """Output of `selective_scan` and gradients by every input, of a loss that weights the output by place."""
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    return _results(selective_scan(**inputs, **options), inputs)


def make_scan(
    batch: int = 2,
    length: int = 19,
    dim: int = 12,
    state: int = 5,
    *,
    directions: int = 2,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Scan:
    """A scan as a mixer asks for it, with gradients required of every tensor."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    def direction(reverse: bool) -> Direction:
        sequence, projected = (batch, length, dim), (batch, 1, length, state)
        return Direction(
            *(normal(*sequence), normal(*sequence), normal(dim, state), normal(*projected), normal(*projected)),
            *(normal(dim), normal(dim)),
            reverse=reverse,
        )

    both = tuple(direction(reverse=d == 1) for d in range(directions))
    return Scan(both, normal(batch, length, dim), delta_softplus=True, log_A=True, scale=scale)


def make_mixer(width: int = 10, state: int = 4) -> BidirectionalMambaMixer:
    torch.manual_seed(0)
    mixer = BidirectionalMambaMixer(width, d_state=state, scan_backend="reference")
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if not name.startswith("A"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return mixer


def mixer_results(mixer: BidirectionalMambaMixer, tokens: Tensor, backend: str = "reference") -> dict[str, Tensor]:
    """Output of the mixer, and gradients by its tokens and parameters."""
    mixer.scan_backend = backend
    return _results(mixer(tokens), {"tokens": tokens, **dict(mixer.named_parameters())})


def _results(out: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    grads = torch.autograd.grad(out, list(inputs.values()), weights)
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}
