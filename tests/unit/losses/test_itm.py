"""Matching and relation losses: values known by hand, left-out rows, what is refused."""

import math

import pytest
import torch

from losses.itm import itm_loss
from losses.prd import prd_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


THREE_TO_ONE = [0.0, math.log(3)]  # softmax (1/4, 3/4)


def test_matching_loss_by_hand():
    loss = itm_loss(torch.tensor([THREE_TO_ONE, THREE_TO_ONE]), torch.tensor([1, 0]))
    torch.testing.assert_close(loss, torch.tensor((math.log(4 / 3) + math.log(4)) / 2))


def test_invalid_rows_leave_the_mean_and_get_no_gradient():
    logits = torch.tensor([THREE_TO_ONE, [5.0, -5.0]], requires_grad=True)
    loss = itm_loss(logits, torch.tensor([1, 0]), torch.tensor([True, False]))
    torch.testing.assert_close(loss, torch.tensor(math.log(4 / 3)))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.25, -0.25], [0.0, 0.0]]))


def test_no_valid_row_gives_zero_with_a_graph():
    logits = torch.randn(2, 2, requires_grad=True)
    loss = itm_loss(logits, torch.tensor([0, 0]), torch.tensor([False, False]))
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(logits.grad, torch.zeros(2, 2))


def test_relation_loss_by_hand():
    loss = prd_loss(torch.tensor([THREE_TO_ONE, THREE_TO_ONE]), torch.tensor([0, 0]))
    torch.testing.assert_close(loss, torch.tensor(math.log(4)))


def test_half_precision_logits_are_lifted():
    logits = torch.tensor([THREE_TO_ONE]).bfloat16()
    assert itm_loss(logits, torch.tensor([1])).dtype == torch.float32
    assert prd_loss(logits, torch.tensor([1])).dtype == torch.float32


def test_differing_rows_are_refused():
    with pytest.raises(ValueError, match="must have the same rows"):
        itm_loss(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="valid"):
        itm_loss(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), torch.ones(2, dtype=torch.bool))
