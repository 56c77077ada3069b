"""Rows copied by index: from packed texts to padded ones and back."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.fused import gather_rows
from tests.unit.models.fused.checks import gradients, operators_of

PLACES = 6
PLACE = torch.tensor([0, 1, 3, PLACES, PLACES])  # of three tokens; two entries of the packed rows are spare
RANK = torch.tensor([0, 1, -1, 2, -1, -1])


def packed(dtype=torch.float32, width=(4,)):
    return torch.randn(5, *width, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()


def padded_by_hand(x):
    zero = torch.zeros_like(x[0])
    return torch.stack([x[0], x[1], zero, x[2], zero, zero])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [(), (4,), (2, 3)])
def test_padding_and_its_gradient(dtype, width):
    x = packed(dtype, width)
    out, want = gather_rows(x, RANK, PLACE), padded_by_hand(x)
    assert torch.equal(out, want)
    assert torch.equal(gradients([out], [x])[0], gradients([want], [x])[0])


def test_packing_is_the_way_back_and_spare_entries_are_zero():
    x = packed()
    again = gather_rows(gather_rows(x, RANK, PLACE), PLACE, RANK)
    assert torch.equal(again[:3], x[:3])
    assert not again[3:].any()
    (grad,) = torch.autograd.grad(again.sum(), x)
    assert torch.equal(grad, torch.tensor([1.0, 1, 1, 0, 0])[:, None].expand(5, 4))


def test_gradients_by_differences_of_any_order():
    x = packed(torch.float64)
    torch.autograd.gradcheck(lambda x: gather_rows(x, RANK, PLACE), x)
    torch.autograd.gradgradcheck(lambda x: gather_rows(x, RANK, PLACE).sin(), x)


def test_integers():
    assert gather_rows(torch.tensor([5, 6, 7, 0, 0]), RANK, PLACE).tolist() == [5, 6, 0, 7, 0, 0]


def test_no_rows():
    nowhere, none = torch.full((PLACES,), -1), torch.empty(0, dtype=torch.int64)
    x = torch.empty(0, 4, requires_grad=True)
    out = gather_rows(x, nowhere, none)
    assert torch.equal(out, torch.zeros(PLACES, 4))
    assert gradients([out], [x])[0].shape == (0, 4)
    assert gather_rows(packed(), none, torch.full((5,), -1)).shape == (0, 4)


def test_strides():
    x = packed(width=(8,)).detach()[:, ::2].requires_grad_()
    out = gather_rows(x, RANK, PLACE)
    assert out.is_contiguous()
    assert torch.equal(out, padded_by_hand(x))
    assert gradients([out], [x])[0].shape == (5, 4)


def test_one_operator_forward_and_one_backward():
    x = packed()
    forward, backward = operators_of(lambda: [gather_rows(x, RANK, PLACE)], [x])
    assert (forward, backward) == (["gather_rows"], ["gather_rows"])


def test_fake_tensors():
    with FakeTensorMode() as mode:
        out = gather_rows(mode.from_tensor(packed()), mode.from_tensor(RANK), mode.from_tensor(PLACE))
        assert out.shape == (PLACES, 4)
    operator = torch.ops.mamba_tbps.gather_rows.default
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(operator, (packed(), RANK, PLACE), test_utils=tests)


def test_bad_arguments():
    with pytest.raises(ValueError, match="needs index"):
        gather_rows(packed(), RANK, RANK)
