"""Attention in bf16 on a CPU: computed in fp32 where it is trained, and otherwise exactly as PyTorch computes it."""

import pytest
import torch
from torch.nn import functional as F

from models.attention import attend
from utils.precision import autocast

CPU = torch.device("cpu")
MASK = torch.tensor([[True, True, False, True, False]])


@pytest.fixture
def inputs():
    """Queries (2, 3, 4, 8), keys and values (2, 3, 5, 8) with gradients."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, length, 8, requires_grad=True) for length in (4, 5, 5)]


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(("precision", "trained"), [("fp32", True), ("fp32", False), ("bf16", False)])
def test_elsewhere_nothing_changes(inputs, mask, precision, trained):
    with autocast(CPU, precision), torch.set_grad_enabled(trained):
        inputs = [1 * x for x in inputs]
        found, expected = attend(*inputs, mask), F.scaled_dot_product_attention(*inputs, mask)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mask", [None, MASK])
def test_trained_in_bf16_it_is_that_of_fp32_rounded(inputs, mask):
    with torch.no_grad():
        rounded = [x.bfloat16() for x in inputs]
    exact_inputs = [x.float().requires_grad_() for x in rounded]
    exact = F.scaled_dot_product_attention(*exact_inputs, mask)
    inputs = [x.requires_grad_() for x in rounded]
    with autocast(CPU, "bf16"):
        found = attend(*inputs, mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    weight = torch.randn_like(exact).bfloat16()
    gradients = torch.autograd.grad(found, inputs, weight)
    for own, other in zip(gradients, torch.autograd.grad(exact, exact_inputs, weight.float()), strict=True):
        assert torch.equal(own, other.bfloat16())


def test_dropout_is_kept(inputs):
    with autocast(CPU, "bf16"):
        assert not attend(*inputs, dropout_prob=1.0).any()
