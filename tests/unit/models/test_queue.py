"""Queue: start, wrap-around, batches larger than the queue, what is refused."""

import pytest
import torch

from models.queue import FeatureQueue


def numbered(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows whose every value is their number; texts are negative."""
    number = torch.arange(start, start + count)
    rows = number[:, None].float().expand(-1, 2)
    return rows, -rows, number


def test_starts_random_normalised_and_without_people():
    torch.manual_seed(0)
    queue = FeatureQueue(5, 4)
    torch.testing.assert_close(queue.image.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(queue.text.norm(dim=1), torch.ones(5))
    assert not torch.equal(queue.image, queue.text)
    assert queue.person_id.tolist() == [-100] * 5
    assert queue.pointer.tolist() == [0]
    assert list(queue.state_dict()) == ["image", "text", "person_id", "pointer"]


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 8, 11])
def test_holds_the_newest_rows_at_their_places(batch):
    """As a plain loop over single rows would leave it, for batches below, at and above the queue's size of 4."""
    queue = FeatureQueue(4, 2)
    expected = [-100] * 4
    for push in range(5):
        start = push * batch
        queue.push(*numbered(start, batch))
        for number in range(start, start + batch):
            expected[number % 4] = number
        assert queue.person_id.tolist() == expected
        assert queue.pointer.tolist() == [(start + batch) % 4]
    filled = queue.person_id != -100
    torch.testing.assert_close(queue.image[filled, 0], queue.person_id[filled].float())
    torch.testing.assert_close(queue.text[filled, 0], -queue.person_id[filled].float())


def test_stores_values_only():
    queue = FeatureQueue(4, 2)
    image, text, person_id = numbered(0, 2)
    queue.push(image.clone().requires_grad_(), text.bfloat16(), person_id)
    assert not queue.image.requires_grad
    assert queue.text.dtype == torch.float32
    image.zero_()
    assert queue.image[1].tolist() == [1.0, 1.0]


def test_refusals():
    with pytest.raises(ValueError, match="size must be at least 1"):
        FeatureQueue(0, 2)
    image, text, person_id = numbered(0, 3)
    with pytest.raises(ValueError, match="must pair up, got 3, 3 and 2"):
        FeatureQueue(4, 2).push(image, text, person_id[:2])
