"""Residual addition and RMSNorm: the operator against nn.RMSNorm and autograd, on any device and dtype."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.fused import add_rms_norm
from tests.unit.models.fused.checks import assert_near, gradients, operators_of


def make(batch=2, length=3, dim=8, dtype=torch.float32, branch_dtype=None):
    generator = torch.Generator().manual_seed(0)
    residual, branch = torch.randn(2, batch, length, dim, generator=generator, dtype=dtype)
    weight = torch.randn(dim, generator=generator, dtype=dtype)
    row_scale = torch.arange(batch).to(dtype) * 1.25
    branch = branch.to(branch_dtype or dtype)
    return residual.requires_grad_(), branch.requires_grad_(), row_scale, weight.requires_grad_()


def composed(residual, branch, row_scale, weight, eps=1e-5):
    """The same by PyTorch's own operators, differentiated by autograd."""
    if branch is not None:
        residual = residual + (branch if row_scale is None else branch * row_scale[:, None, None])
    norm = nn.RMSNorm(weight.numel(), eps=eps, dtype=weight.dtype)
    return residual, torch.func.functional_call(norm, {"weight": weight}, residual)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("branched", [False, True])
def test_equals_the_composition(branched, scaled):
    residual, branch, row_scale, weight = make()
    args = residual, branch if branched else None, row_scale if scaled else None, weight
    inputs = [x for x in args if x is not None and x.requires_grad]
    got, want = add_rms_norm(*args), composed(*args)
    assert torch.equal(got.residual, want[0])
    assert torch.equal(got.normed, want[1])
    assert_near(gradients(got, inputs), gradients(want, inputs), 1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_by_differences(scaled):
    residual, branch, row_scale, weight = make(dtype=torch.float64, length=2, dim=3)
    row_scale = row_scale if scaled else None
    torch.autograd.gradcheck(lambda x, y, w: add_rms_norm(x, y, row_scale, w), (residual, branch, weight))
    torch.autograd.gradcheck(lambda x, w: add_rms_norm(x, None, None, w).normed, (residual, weight))


@pytest.mark.parametrize("used", ["residual", "normed"])
def test_one_of_the_results_may_be_unused(used):
    residual, branch, row_scale, weight = make()
    inputs = [residual, branch]
    got = getattr(add_rms_norm(residual, branch, row_scale, weight), used)
    want = dict(zip(("residual", "normed"), composed(residual, branch, row_scale, weight), strict=True))[used]
    assert_near(gradients([got], inputs), gradients([want], inputs), 1e-5)


def test_dtypes_under_autocast():
    residual, branch, row_scale, weight = make(branch_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        got = add_rms_norm(residual, branch, row_scale, weight)
        asked = add_rms_norm(residual, branch, row_scale, weight, out_dtype=torch.float32)
    assert (got.residual.dtype, got.normed.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(asked.normed.bfloat16(), got.normed)
    grads = gradients(got, [residual, branch, weight])
    assert [each.dtype for each in grads] == [torch.float32, torch.bfloat16, torch.float32]
    assert torch.equal(grads[1], (grads[0] * row_scale[:, None, None]).bfloat16())


def test_a_dropped_branch_changes_nothing_and_gets_no_gradient():
    residual, branch, row_scale, weight = make()
    got = add_rms_norm(residual, branch, row_scale, weight)
    assert torch.equal(got.residual[0], residual[0])
    (grad,) = gradients(got, [branch])
    assert not grad[0].any()
    assert grad[1].any()


def test_one_operator_forward_and_one_backward():
    residual, branch, row_scale, weight = make(branch_dtype=torch.bfloat16)
    for scale in (row_scale, None):
        forward, backward = operators_of(
            lambda scale=scale: add_rms_norm(residual, branch, scale, weight), [residual, branch, weight]
        )
        assert (forward, backward) == (["add_norm"], ["add_norm_backward"])


def test_empty_batch_and_strides():
    residual, branch, row_scale, weight = make(batch=0)
    got = add_rms_norm(residual, branch, row_scale, weight)
    assert got.normed.shape == (0, 3, 8)
    assert not gradients(got, [weight])[0].any()

    residual, branch, row_scale, weight = make()
    moved = [x.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_() for x in (residual, branch)]
    got = add_rms_norm(*moved, row_scale, weight)
    assert got.normed.is_contiguous()
    want = add_rms_norm(residual, branch, row_scale, weight)
    assert_near([*got, *gradients(got, moved)], [*want, *gradients(want, [residual, branch])], 0)


@pytest.mark.parametrize("branched", [False, True])
def test_fake_tensors(branched):
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(x) for x in make(branch_dtype=torch.bfloat16)]
        got = add_rms_norm(args[0], args[1] if branched else None, args[2], args[3], out_dtype=torch.bfloat16)
        assert [(x.shape, x.dtype) for x in got] == [((2, 3, 8), torch.float32), ((2, 3, 8), torch.bfloat16)]
    operator = torch.ops.mamba_tbps.add_norm.default
    residual, branch, row_scale, weight = make()
    args = (residual, branch if branched else None, row_scale, None, weight, None, 1e-5, torch.float32)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(operator, args, test_utils=tests)


def test_bad_arguments():
    residual, branch, row_scale, weight = make()
    with pytest.raises(ValueError, match="float32 or float64"):
        add_rms_norm(residual.bfloat16(), branch, None, weight)
    with pytest.raises(ValueError, match="differ"):
        add_rms_norm(residual, branch[:, :1], None, weight)
    with pytest.raises(ValueError, match="row_scale must be"):
        add_rms_norm(residual, branch, row_scale[:1], weight)
