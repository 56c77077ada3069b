"""Patch layout and reconstruction loss."""

import pytest
import torch

from losses.mae import mae_loss, patchify, unpatchify


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_patch_values_are_ordered_by_row_column_colour():
    image = torch.arange(3 * 4 * 6, dtype=torch.float32).reshape(1, 3, 4, 6)
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 12)
    for patch, row, column in [(0, 0, 0), (2, 0, 4), (4, 2, 2)]:
        expected = [image[0, c, row + y, column + x] for y in range(2) for x in range(2) for c in range(3)]
        torch.testing.assert_close(patches[0, patch], torch.stack(expected), rtol=0, atol=0)


def test_unpatchify_undoes_patchify_of_a_rectangle():
    image = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(unpatchify(patchify(image, 4), 4, (8, 12)), image, rtol=0, atol=0)


def test_loss_is_the_mean_square_over_masked_patches():
    image = torch.zeros(2, 3, 4, 4)
    prediction = torch.stack([torch.arange(4.0), torch.tensor([5.0, 0.0, 0.0, 0.0])])[:, :, None].expand(2, 4, 12)
    masked = torch.tensor([[False, True, False, True], [True, False, False, False]])
    torch.testing.assert_close(mae_loss(prediction, image, masked, 2), torch.tensor((1 + 9 + 25) / 3))
    torch.testing.assert_close(mae_loss(prediction, image, masked.float(), 2), torch.tensor((1 + 9 + 25) / 3))


def test_gradient_reaches_masked_patches_only():
    prediction = torch.randn(1, 4, 12, requires_grad=True)
    image = torch.randn(1, 3, 4, 4, requires_grad=True)
    masked = torch.tensor([[True, False, True, False]])
    mae_loss(prediction, image, masked, 2).backward()
    torch.testing.assert_close(prediction.grad.abs().sum(dim=2) > 0, masked)
    assert image.grad is None


def test_nothing_masked_gives_zero():
    assert mae_loss(torch.randn(1, 4, 12), torch.randn(1, 3, 4, 4), torch.zeros(1, 4, dtype=torch.bool), 2) == 0


def test_half_precision_prediction_is_lifted():
    loss = mae_loss(torch.ones(1, 4, 12).bfloat16(), torch.zeros(1, 3, 4, 4), torch.ones(1, 4), 2)
    torch.testing.assert_close(loss, torch.tensor(1.0))


def test_refusals():
    with pytest.raises(ValueError, match="4 x 5 px does not divide"):
        patchify(torch.zeros(1, 3, 4, 5), 2)
    with pytest.raises(ValueError, match="do not fit an image"):
        unpatchify(torch.zeros(1, 3, 12), 2, (4, 4))
    with pytest.raises(ValueError, match="do not fit an image"):
        unpatchify(torch.zeros(1, 4, 10), 2, (4, 4))
    with pytest.raises(ValueError, match=r"must be \(1, 4, 12\)"):
        mae_loss(torch.zeros(1, 4, 10), torch.zeros(1, 3, 4, 4), torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match=r"must be \(1, 4, 12\)"):
        mae_loss(torch.zeros(1, 4, 12), torch.zeros(1, 3, 4, 4), torch.zeros(1, 3), 2)
