"""Word losses: values known by hand, ignored places, what is refused."""

import math

import pytest
import torch

from losses.mlm import mlm_loss
from losses.mrtd import mrtd_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_equal_logits_cost_the_log_of_the_vocabulary():
    torch.testing.assert_close(mlm_loss(torch.zeros(3, 5), torch.tensor([0, 1, 4])), torch.tensor(math.log(5)))


def test_distillation_by_hand_runs_over_the_vocabulary():
    """Softmax (3/4, 1/4), momentum softmax (1/4, 3/4), label 0: at alpha 0.5 the target is (5/8, 3/8)."""
    loss = mlm_loss(
        torch.tensor([[math.log(3), 0.0]]), torch.tensor([0]), torch.tensor([[0.0, math.log(3)]]), alpha=0.5
    )
    torch.testing.assert_close(loss, torch.tensor(-5 / 8 * math.log(0.75) - 3 / 8 * math.log(0.25)))


def test_each_place_is_distilled_on_its_own():
    logits, momentum = torch.randn(3, 5), torch.randn(3, 5)
    labels = torch.tensor([0, 1, 4])
    each = [mlm_loss(logits[[i]], labels[[i]], momentum[[i]], alpha=0.4) for i in range(3)]
    torch.testing.assert_close(mlm_loss(logits, labels, momentum, alpha=torch.tensor(0.4)), torch.stack(each).mean())


def test_unlabelled_places_leave_the_mean():
    logits, momentum = torch.randn(4, 5), torch.randn(4, 5)
    labels = torch.tensor([2, -100, 4, -100])
    expected = mlm_loss(logits[::2], labels[::2], momentum[::2], alpha=0.4)
    torch.testing.assert_close(mlm_loss(logits, labels, momentum, alpha=0.4), expected)


@pytest.mark.parametrize("labels", [[], [-100, -100]])
@pytest.mark.parametrize("with_momentum", [False, True])
def test_no_masked_place_gives_zero_with_a_graph(labels, with_momentum):
    logits = torch.randn(len(labels), 5, requires_grad=True)
    momentum, alpha = (torch.randn(len(labels), 5), 0.4) if with_momentum else (None, 0.0)
    loss = mlm_loss(logits, torch.tensor(labels, dtype=torch.long), momentum, alpha=alpha)
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(logits.grad, torch.zeros(len(labels), 5))


def test_momentum_logits_get_no_gradient():
    logits, momentum = torch.randn(2, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    mlm_loss(logits, torch.tensor([1, 2]), momentum, alpha=0.4).backward()
    assert logits.grad.any()
    assert momentum.grad is None


def test_mlm_refusals():
    with pytest.raises(ValueError, match="must have the same places"):
        mlm_loss(torch.zeros(3, 5), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"momentum_logits \(3, 4\)"):
        mlm_loss(torch.zeros(3, 5), torch.tensor([1, 2, 3]), torch.zeros(3, 4), alpha=0.4)
    for alpha in (0.4, torch.tensor(0.4)):
        with pytest.raises(ValueError, match="needs momentum_logits"):
            mlm_loss(torch.zeros(3, 5), torch.tensor([1, 2, 3]), alpha=alpha)


def test_mrtd_by_hand():
    """Mean over the batch's counted places, not over captions."""
    logits = torch.tensor([0.0, math.log(3)]).expand(2, 3, 2)
    labels = torch.tensor([[-100, 1, 1], [-100, 0, -100]])
    torch.testing.assert_close(mrtd_loss(logits, labels), torch.tensor((2 * math.log(4 / 3) + math.log(4)) / 3))


def test_mrtd_of_ignored_places_only_is_zero_with_a_graph():
    logits = torch.randn(2, 3, 2, requires_grad=True)
    loss = mrtd_loss(logits, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0
    torch.testing.assert_close(logits.grad, torch.zeros(2, 3, 2))


def test_mrtd_refusal():
    with pytest.raises(ValueError, match="must have the same places"):
        mrtd_loss(torch.zeros(2, 3, 2), torch.zeros(2, 4, dtype=torch.long))


def test_half_precision_logits_are_lifted():
    assert mlm_loss(torch.zeros(2, 5).bfloat16(), torch.tensor([1, 2])).dtype == torch.float32
    assert mrtd_loss(torch.zeros(1, 2, 2).bfloat16(), torch.tensor([[1, 0]])).dtype == torch.float32
