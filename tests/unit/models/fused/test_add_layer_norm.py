"""Residual addition and LayerNorm: the operator against nn.LayerNorm and autograd, on any device and dtype."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.fused import add_layer_norm
from tests.unit.models.fused.checks import assert_near, gradients, operators_of


def make(batch=2, length=3, dim=8, dtype=torch.float32, branch_dtype=None):
    """residual, branch, weight, bias, branch_bias"""
    generator = torch.Generator().manual_seed(0)
    residual, branch = torch.randn(2, batch, length, dim, generator=generator, dtype=dtype)
    vectors = torch.randn(3, dim, generator=generator, dtype=dtype)
    return [x.requires_grad_() for x in (residual, branch.to(branch_dtype or dtype), *vectors.unbind())]


def run(residual, branch, weight, bias, branch_bias=None, **options):
    return add_layer_norm(residual, branch, weight, bias, branch_bias=branch_bias, **options)


def composed(residual, branch, weight, bias, branch_bias=None):
    """The same by PyTorch's own operators, differentiated by autograd."""
    if branch is not None:
        residual = residual + (branch if branch_bias is None else branch + branch_bias)
    norm = nn.LayerNorm(weight.numel(), dtype=weight.dtype)
    return residual, torch.func.functional_call(norm, {"weight": weight, "bias": bias}, residual)


def variants(args):
    """With branch and its bias, with a branch, without."""
    return args, args[:4], [args[0], None, *args[2:4]]


@pytest.mark.parametrize("variant", range(3))
def test_equals_the_composition(variant):
    args = variants(make())[variant]
    inputs = [x for x in args if x is not None]
    got, want = run(*args), composed(*args)
    assert torch.equal(got.residual, want[0])
    assert torch.equal(got.normed, want[1])
    assert_near(gradients(got, inputs), gradients(want, inputs), 1e-5)


def test_gradients_by_differences():
    with_bias, with_branch, alone = variants(make(dtype=torch.float64, length=2, dim=3))
    torch.autograd.gradcheck(run, with_bias)
    torch.autograd.gradcheck(run, with_branch)
    torch.autograd.gradcheck(lambda x, w, b: run(x, None, w, b).normed, [x for x in alone if x is not None])


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_the_results_may_be_unused(used):
    args = make()
    inputs = [args[0], args[1], args[4]]
    assert_near(gradients([run(*args)[used]], inputs), gradients([composed(*args)[used]], inputs), 1e-5)


def test_dtypes_under_autocast():
    args = make(branch_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(*args)
        asked = run(*args, out_dtype=torch.float32)
    assert (got.residual.dtype, got.normed.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(asked.normed.bfloat16(), got.normed)
    of_residual, of_branch, *of_vectors = gradients(got, args)
    assert torch.equal(of_branch, of_residual.bfloat16())
    assert [each.dtype for each in of_vectors] == [torch.float32] * 3
    assert_near(of_vectors[2:], [of_residual.sum((0, 1))], 1e-6)  # summed up before it is rounded


def test_one_operator_forward_and_one_backward():
    for args in variants(make(branch_dtype=torch.bfloat16))[:2]:
        forward, backward = operators_of(lambda args=args: run(*args, out_dtype=torch.bfloat16), args)
        assert (forward, backward) == (["add_norm"], ["add_norm_backward"])


def test_empty_batch():
    args = make(batch=0)
    got = run(*args)
    assert got.normed.shape == (0, 3, 8)
    assert not any(each.any() for each in gradients(got, args[2:]))


@pytest.mark.parametrize("variant", range(3))
def test_fake_tensors(variant):
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(x) for x in make(branch_dtype=torch.bfloat16)]
        got = run(*variants(args)[variant], out_dtype=torch.bfloat16)
        assert [(x.shape, x.dtype) for x in got] == [((2, 3, 8), torch.float32), ((2, 3, 8), torch.bfloat16)]
    residual, branch, weight, bias, *branch_bias = variants(make())[variant]
    args = (residual, branch, None, branch_bias[0] if branch_bias else None, weight, bias, 1e-5, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.mamba_tbps.add_norm.default, args, test_utils=tests)


def test_bad_arguments():
    residual, branch, weight, bias, branch_bias = make()
    with pytest.raises(ValueError, match="float32 or float64"):
        run(residual.bfloat16(), branch, weight, bias)
    with pytest.raises(ValueError, match="differ"):
        run(residual, branch[:, :1], weight, bias)
    with pytest.raises(ValueError, match="needs a branch"):
        run(residual, None, weight, bias, branch_bias)
