"""Contrastive loss: values known by hand, where gradients go, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from losses.itc import contrastive_loss, identity_targets, itc_loss


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def embeddings(seed: int, rows: int, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=1)


def inputs(rows: int = 3, queue: int = 5) -> dict:
    return {
        "image": embeddings(0, rows).requires_grad_(),
        "text": embeddings(1, rows).requires_grad_(),
        "momentum_image": embeddings(2, rows).requires_grad_(),
        "momentum_text": embeddings(3, rows).requires_grad_(),
        "queue_image": embeddings(4, queue).requires_grad_(),
        "queue_text": embeddings(5, queue).requires_grad_(),
        "person_id": torch.tensor([7, 8, 7][:rows]),
        "queue_person_id": torch.tensor([8, -100, 9, -100, -100][:queue]),
        "temperature": torch.tensor(0.1, dtype=torch.float64, requires_grad=True),
    }


def test_targets_are_shared_by_the_candidates_of_a_person():
    targets = identity_targets(torch.tensor([4, 5]), torch.tensor([4, 5, 4, -100]))
    torch.testing.assert_close(targets, torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]))


def test_a_person_without_candidates_is_refused():
    with pytest.raises(ValueError, match="no match among the candidates"):
        identity_targets(torch.tensor([4, 6]), torch.tensor([4, 5]))


def test_equal_logits_cost_the_log_of_their_number():
    torch.testing.assert_close(itc_loss(torch.zeros(2, 4), torch.eye(2, 4)), torch.tensor(math.log(4)))


def test_two_logits_by_hand():
    """softmax of (log 3, 0) is (3/4, 1/4); half of the target comes from a momentum softmax of (1/2, 1/2)."""
    logits, targets = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]])
    loss = itc_loss(logits, targets, torch.zeros(1, 2), alpha=0.5)
    torch.testing.assert_close(loss, torch.tensor(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_alpha_may_be_a_tensor():
    logits, targets, momentum = torch.randn(2, 4), torch.eye(2, 4), torch.randn(2, 4)
    torch.testing.assert_close(
        itc_loss(logits, targets, momentum, alpha=torch.tensor(0.3)), itc_loss(logits, targets, momentum, alpha=0.3)
    )


def test_half_precision_logits_are_lifted():
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = itc_loss(logits, torch.eye(2, 4), logits, alpha=0.5)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, itc_loss(logits.float(), torch.eye(2, 4), logits.float(), alpha=0.5))


def test_momentum_logits_get_no_gradient():
    logits, momentum = torch.zeros(2, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    itc_loss(logits, torch.eye(2, 4), momentum, alpha=0.5).backward()
    assert logits.grad is not None
    assert momentum.grad is None


@pytest.mark.parametrize("alpha", [0.1, torch.tensor(0.1)])
def test_alpha_without_momentum_logits_is_refused(alpha):
    with pytest.raises(ValueError, match="needs momentum_logits"):
        itc_loss(torch.zeros(2, 4), torch.eye(2, 4), alpha=alpha)


def test_differing_shapes_are_refused():
    with pytest.raises(ValueError, match=r"logits \(2, 4\) and targets \(2, 3\)"):
        itc_loss(torch.zeros(2, 4), torch.eye(2, 3))
    with pytest.raises(ValueError, match=r"momentum_logits \(2, 3\)"):
        itc_loss(torch.zeros(2, 4), torch.eye(2, 4), torch.zeros(2, 3), alpha=0.5)


def test_contrastive_loss_of_equal_embeddings_is_log_of_candidates():
    """All similarities equal: every direction costs log(batch + queue)."""
    same = F.normalize(torch.ones(2, 3), dim=1)
    queue = {"queue_image": same, "queue_text": same, "queue_person_id": torch.full((2,), -100)}
    loss = contrastive_loss(
        same, same, same, same, person_id=torch.tensor([1, 2]), temperature=torch.tensor(0.05), alpha=0.4, **queue
    )
    torch.testing.assert_close(loss, torch.tensor(math.log(4)))


def test_contrastive_gradient_reaches_online_embeddings_and_temperature_only():
    arguments = inputs()
    contrastive_loss(**arguments, alpha=0.4).backward()
    with_gradient = {name for name, value in arguments.items() if value.grad is not None and value.grad.any()}
    assert with_gradient == {"image", "text", "temperature"}


def test_contrastive_gradient_is_right():
    arguments = {name: value.detach() for name, value in inputs().items()}

    def loss(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(**arguments | {"image": image, "text": text}, alpha=0.4)

    online = arguments["image"].clone().requires_grad_(), arguments["text"].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, online)


def test_own_candidates_are_the_default_and_gathered_ones_replace_them():
    """Two processes' batches: the mean of their losses over gathered candidates is the loss of the joint batch."""
    arguments = inputs()
    joint = contrastive_loss(**arguments, alpha=0.4)
    gathered = {
        "candidate_image": arguments["momentum_image"],
        "candidate_text": arguments["momentum_text"],
        "candidate_person_id": arguments["person_id"],
    }
    torch.testing.assert_close(contrastive_loss(**arguments, **gathered, alpha=0.4), joint)
    per_sample = ("image", "text", "momentum_image", "momentum_text", "person_id")
    parts = [
        contrastive_loss(
            **{name: value[row : row + 1] if name in per_sample else value for name, value in arguments.items()},
            **gathered,
            alpha=0.4,
        )
        for row in range(3)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), joint)


def test_some_but_not_all_candidates_are_refused():
    with pytest.raises(ValueError, match="together, or none"):
        contrastive_loss(**inputs(), alpha=0.4, candidate_image=embeddings(2, 3))


def test_autocast_does_not_coarsen_the_loss():
    arguments = {name: value.detach() for name, value in inputs().items()}
    arguments = {name: value.float() if value.is_floating_point() else value for name, value in arguments.items()}
    expected = contrastive_loss(**arguments, alpha=0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(contrastive_loss(**arguments, alpha=0.4), expected, rtol=0, atol=0)
