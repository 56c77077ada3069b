"""Selective scan against the published reference (golden vectors) and the CPU kernels against our reference loop.

Reference in float64: atol 1e-8. Kernels in float32 against float64: rtol 1e-4, atol 1e-5 of the largest element.
bfloat16 inputs: the kernel computes in float32 on them, so only the rounding of its results differs: rtol 2^-7.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models.selective_scan import cpu, selective_scan
from models.selective_scan.compiler import Kernel, load_kernels
from tests.helpers.paths import VECTORS
from tests.helpers.vectors import load_case, starting_with

CASES = sorted(path.stem for path in (VECTORS / "selective_scan").glob("*.json"))
NO_KERNEL = cpu.obstacle("cpu", torch.float32, 16)
KERNELS = [] if NO_KERNEL else load_kernels()
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def run(inputs: dict[str, Tensor], grad_out: Tensor, **options: Any) -> dict[str, Tensor]:
    """The output and the gradient of every input."""
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**inputs, **options)
    grads = torch.autograd.grad(out, list(inputs.values()), grad_out.to(out.dtype))
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Element by element; atol is relative to the largest element of each tensor."""
    assert got.keys() == want.keys()
    for name, x in got.items():
        bound = atol * want[name].abs().max().item()
        message = partial(_named, name)
        torch.testing.assert_close(x.double(), want[name].double(), rtol=rtol, atol=bound, msg=message)


def _named(name: str, message: str) -> str:
    return f"{name}: {message}"


def golden(name: str) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor], bool]:
    """Inputs, weights of the output in the loss, expected results in float64, softplus."""
    meta, tensors = load_case(f"selective_scan/{name}")
    want = {"out": tensors["f64.out"], **starting_with(tensors, "f64.grad.")}
    return starting_with(tensors, "in."), tensors["w"], want, meta["delta_softplus"]


@pytest.mark.parametrize("case", CASES)
def test_reference_reproduces_the_published_scan(case):
    inputs, grad_out, want, softplus = golden(case)
    doubled = {name: x.double() for name, x in inputs.items()}
    got = run(doubled, grad_out, delta_softplus=softplus, backend="reference")
    for name, x in got.items():
        torch.testing.assert_close(x, want[name], rtol=0, atol=1e-8)


@each_kernel
@pytest.mark.parametrize("case", CASES)
def test_kernel_reproduces_the_published_scan(monkeypatch, kernel: Kernel, case):
    monkeypatch.setattr(cpu, "_kernel", lambda: kernel)
    inputs, grad_out, want, softplus = golden(case)
    assert_same(run(inputs, grad_out, delta_softplus=softplus, backend="cpu"), want)


def random_inputs(batch: int, dim: int, length: int, state: int, groups: int, channel_last: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(length)

    def sequence(*channels: int) -> Tensor:
        if channel_last:
            return torch.randn(batch, length, *channels, generator=generator).movedim(1, -1)
        return torch.randn(batch, *channels, length, generator=generator)

    return {
        "u": sequence(dim),
        "delta": sequence(dim),
        "A": -torch.rand(dim, state, generator=generator) * 8,
        "B": sequence(groups, state),
        "C": sequence(groups, state),
        "D": torch.randn(dim, generator=generator),
        "z": sequence(dim),
        "delta_bias": torch.randn(dim, generator=generator) - 2,
    }


@each_kernel
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 129, 197, 577])
def test_kernel_agrees_with_reference_at_any_length(monkeypatch, kernel: Kernel, length, channel_last, reverse):
    monkeypatch.setattr(cpu, "_kernel", lambda: kernel)
    inputs = random_inputs(2, 40, length, 16, 1, channel_last)
    options = {"delta_softplus": True, "reverse": reverse}
    grad_out = torch.randn_like(inputs["u"])
    want = run({name: x.double() for name, x in inputs.items()}, grad_out, **options, backend="reference")
    assert_same(run(inputs, grad_out, **options, backend="cpu"), want)


@each_kernel
@pytest.mark.parametrize(
    ("dim", "state", "groups", "without", "softplus"),
    [
        (1, 1, 1, (), True),
        (37, 5, 1, ("z",), True),
        (37, 64, 1, ("D",), True),
        (36, 7, 3, ("delta_bias",), True),
        (200, 16, 2, ("z", "D", "delta_bias"), True),
        (12, 16, 12, (), True),
        (40, 16, 1, ("delta_bias",), False),
    ],
)
def test_kernel_agrees_with_reference_in_any_shape(monkeypatch, kernel: Kernel, dim, state, groups, without, softplus):
    monkeypatch.setattr(cpu, "_kernel", lambda: kernel)
    inputs = {name: x for name, x in random_inputs(3, dim, 35, state, groups, True).items() if name not in without}
    if not softplus:
        inputs["delta"] = inputs["delta"] * 0.1  # negative steps as well
    options = {"delta_softplus": softplus}
    grad_out = torch.randn_like(inputs["u"])
    want = run({name: x.double() for name, x in inputs.items()}, grad_out, **options, backend="reference")
    assert_same(run(inputs, grad_out, **options, backend="cpu"), want)


@each_kernel
@pytest.mark.parametrize("channel_last", [False, True])
def test_kernel_in_bfloat16(monkeypatch, kernel: Kernel, channel_last):
    monkeypatch.setattr(cpu, "_kernel", lambda: kernel)
    rounded = random_inputs(2, 40, 33, 16, 1, channel_last)
    rounded |= {name: rounded[name].bfloat16() for name in ("u", "delta", "z", "B", "C")}
    grad_out = torch.randn_like(rounded["u"])
    want = run({name: x.double() for name, x in rounded.items()}, grad_out, delta_softplus=True, backend="reference")
    assert_same(run(rounded, grad_out, delta_softplus=True, backend="cpu"), want, rtol=2**-7)
