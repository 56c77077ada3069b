"""The kernels of the fused operators compiled for NVIDIA GPUs: no spills, bytes and registers within bounds.

`pytest -s` prints the figures of each kernel.
"""

import pytest
import torch

from models.fused import Dropout, add_layer_norm, add_rms_norm, dropout_add_layer_norm, gather_rows
from tests.helpers.interpreted_kernels import INTERPRETED

pytest.importorskip("triton")
compiled_kernels = pytest.importorskip("tests.helpers.compiled_kernels")

pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="nothing is compiled there"),
    pytest.mark.usefixtures("by_kernel"),
]
ARCHITECTURES = pytest.mark.parametrize("arch", [compiled_kernels.HOPPER, compiled_kernels.AMPERE])
MODEL_WIDTHS = pytest.mark.parametrize("dim", [384, 768])
NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
LEAST_WARPS_PER_SM = 16
MOST_SHARED_BYTES = 4096  # what warps of a program exchange to add up a row or to store it in whole sectors


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def check(kernels, names):
    """No number leaves the registers, and a multiprocessor has room for enough warps."""
    examined = [compiled_kernels.examine(each) for each in kernels]
    assert [each.name for each in examined] == [f"{name}_kernel" for name in names]
    for kernel in examined:
        print(kernel.needs)
        assert kernel.spills == []
        assert kernel.stack_bytes == 0
        assert kernel.shared_bytes <= MOST_SHARED_BYTES
        assert kernel.warps_per_multiprocessor >= LEAST_WARPS_PER_SM
        assert "atom." not in kernel.ptx  # sums whose order is open would differ from run to run
        assert ".f64" not in kernel.ptx


@ARCHITECTURES
@MODEL_WIDTHS
@NARROW
def test_add_rms_norm(monkeypatch, arch, dim, dtype):
    kernels = compiled_kernels.compile_only(monkeypatch, arch)
    residual, branch, weight = zeros(2, 3, dim), zeros(2, 3, dim, dtype=dtype), zeros(dim)
    out = add_rms_norm(residual, branch, torch.zeros(2), weight, out_dtype=dtype)
    torch.autograd.grad(out, [residual, branch, weight], [torch.zeros_like(x) for x in out])
    check(kernels, ["add_norm_forward", "add_norm_backward"])


@ARCHITECTURES
@MODEL_WIDTHS
@NARROW
def test_add_layer_norm(monkeypatch, arch, dim, dtype):
    kernels = compiled_kernels.compile_only(monkeypatch, arch)
    inputs = [zeros(2, 3, dim), zeros(2, 3, dim, dtype=dtype), zeros(dim), zeros(dim), zeros(dim)]
    out = add_layer_norm(*inputs[:4], out_dtype=dtype, branch_bias=inputs[4])
    torch.autograd.grad(out, inputs, [torch.zeros_like(x) for x in out])
    check(kernels, ["add_norm_forward", "add_norm_backward"])


@ARCHITECTURES
@pytest.mark.parametrize("width", [384, 768, 2304])
@NARROW
def test_gather_rows(monkeypatch, arch, width, dtype):
    kernels = compiled_kernels.compile_only(monkeypatch, arch)
    x = zeros(48, width, dtype=dtype)
    out = gather_rows(x, torch.zeros(80, dtype=torch.int64), torch.zeros(48, dtype=torch.int64))
    torch.autograd.grad(out, x, torch.zeros_like(out))
    check(kernels, ["gather_rows", "gather_rows"])


@ARCHITECTURES
@MODEL_WIDTHS
@NARROW
@pytest.mark.parametrize("prob", [0.0, 0.1])
def test_dropout_add_layer_norm(monkeypatch, arch, dim, dtype, prob):
    kernels = compiled_kernels.compile_only(monkeypatch, arch)
    inputs = [zeros(80, dim, dtype=dtype), zeros(80, dim), zeros(dim), zeros(dim), zeros(dim)]
    options = {"dropout": Dropout(prob, torch.tensor([1]), 1), "stream_dtype": torch.float32, "x_bias": inputs[4]}
    out = dropout_add_layer_norm(*inputs[:4], out_dtype=dtype, **options)
    outputs = set(out)
    torch.autograd.grad(list(outputs), inputs, [torch.zeros_like(x) for x in outputs])
    check(kernels, ["dropout_add_layer_norm_forward", "dropout_add_layer_norm_backward"])
