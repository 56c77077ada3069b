"""Weights joined and cast once in a step: the same gradients as weights that are joined where they are used."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.joined_weights import Join, JoinedModule, join, joined_once
from tests.helpers.dispatch import dispatched


class TwoProducts(JoinedModule):
    """Both matrices as one factor, and a norm's weight beside it, in as many passes as are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 5)
        self.scale = nn.Parameter(torch.randn(8))

    def joins(self) -> dict[str, Join]:
        return {
            "weight": join(self.first.weight, self.second.weight),
            "stacked": join(self.first.bias, self.first.bias, stacked=True),
            "scale": join(self.scale, is_factor=False),
        }

    def forward(self, x: Tensor) -> Tensor:
        total = F.linear(x, self.joined("weight")) * self.joined("scale")
        return total.sum() + self.joined("stacked")[1].float().square().sum()


def gradients(module: nn.Module, x: Tensor, passes: int, once: bool) -> dict[str, Tensor]:
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        if once:
            with joined_once(module, "cpu"):
                losses = [module(x) for _ in range(passes)]
        else:
            losses = [module(x) for _ in range(passes)]
    torch.stack(losses).sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_gradients_are_those_of_weights_joined_at_each_use(passes):
    torch.manual_seed(0)
    module, x = TwoProducts(), torch.randn(2, 4)
    once, each = (gradients(module, x, passes, once) for once in (True, False))
    assert once.keys() == each.keys() == {"first.weight", "second.weight", "first.bias", "scale"}
    for name, gradient in each.items():
        assert once[name].dtype == torch.float32
        torch.testing.assert_close(once[name], gradient, rtol=2e-2, atol=2e-2)  # bfloat16


def test_factors_have_the_dtype_of_products_and_others_keep_theirs():
    module = TwoProducts()
    with torch.autocast("cpu", torch.bfloat16), joined_once(module, "cpu"):
        weight, scale = module.joined("weight"), module.joined("scale")
        assert (weight.dtype, scale.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(weight[:3], module.first.weight.bfloat16())
    assert module.joined("weight").dtype == torch.float32
    assert module.joined("scale") is not None


def test_nothing_is_copied_in_fp32_on_a_cpu():
    module = TwoProducts()
    with joined_once(module, "cpu"):
        assert module._copies is None


def test_frozen_parameters_get_no_gradient():
    module = TwoProducts()
    module.second.requires_grad_(False)
    assert "second.weight" not in gradients(module, torch.randn(2, 4), 2, once=True)


def test_copies_and_their_gradients_are_a_few_operators():
    module, x = TwoProducts(), torch.randn(2, 4)
    with torch.autocast("cpu", torch.bfloat16), dispatched() as operators:
        context = joined_once(module, "cpu")
        context.__enter__()
        context.__exit__(None, None, None)
    assert operators["_foreach_copy_"] == 2  # of the factors, and of the others
    assert "_to_copy" not in operators
    assert "cat" not in operators
    with dispatched() as operators:
        gradients(module, x, 2, once=True)
    assert operators["_foreach_copy_"] == 4  # there and back
    assert operators["_foreach_add"] == 2
