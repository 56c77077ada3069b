"""Reconstruction loss of the masked patches, and the patch layout that it and the decoder share.

B images, N = H/P * W/P patches in raster order, P patch size in px. Source: MAE (arXiv:2111.06377), section 3.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dataset.batches import TrainBatch
from losses.objective import Objective, Question, Step
from losses.precision import at_least_float32


class KeptPatches(NamedTuple):
    kept: Tensor  # (B, K) int64, in raster order
    masked: Tensor  # (B, N) bool, True where the patch is hidden


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut images into patches: (B, 3, H, W) -> (B, N, P*P*3); within a patch row, column, then colour.

    Raises: ValueError if H or W is not a multiple of patch_size.
    """
    batch, colours, height, width = image.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"image of {height} x {width} px does not divide into patches of {patch_size} px")
    rows, columns = height // patch_size, width // patch_size
    grid = image.reshape(batch, colours, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * colours)


def unpatchify(patches: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """Put patches together again: (B, N, P*P*3) -> (B, 3, H, W) with image_size = (H, W) in px.

    Raises: ValueError if the number or the size of the patches does not fit image_size.
    """
    batch, num_patches, values = patches.shape
    rows, columns = image_size[0] // patch_size, image_size[1] // patch_size
    if num_patches != rows * columns or values != patch_size**2 * 3:
        raise ValueError(f"patches {tuple(patches.shape)} of {patch_size} px do not fit an image of {image_size} px")
    grid = patches.reshape(batch, rows, columns, patch_size, patch_size, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(batch, 3, rows * patch_size, columns * patch_size)


def mae_loss(prediction: Tensor, image: Tensor, masked: Tensor, patch_size: int) -> Tensor:
    """Mean squared error per masked patch, averaged over the masked patches of the batch; 0 when none is masked.

    Args:
        prediction: (B, N, P*P*3) in the layout of patchify.
        image: (B, 3, H, W) normalised RGB; the loss is in squares of its unit. It gets no gradient.
        masked: (B, N), True or 1 where the encoder did not see the patch.
        patch_size: P in px.
    Raises: ValueError if shapes differ.
    """
    target = patchify(at_least_float32(image.detach()), patch_size)
    if prediction.shape != target.shape or masked.shape != target.shape[:2]:
        shapes = f"{tuple(prediction.shape)} and {tuple(masked.shape)}"
        raise ValueError(f"prediction and masked must be {tuple(target.shape)} and (B, N), got {shapes}")
    per_patch = (at_least_float32(prediction) - target).square().mean(dim=2)  # (B, N)
    return (per_patch * masked).sum() / masked.sum().clamp(min=1)


def draw_kept_patches(
    batch: int,
    num_patches: int,
    mask_ratio: float,
    *,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> KeptPatches:
    """Choose for each image the patches that the masked pass sees, all subsets of their number being equally likely."""
    return kept_patches(torch.rand(batch, num_patches, device=device, generator=generator), mask_ratio)


def kept_patches(noise: Tensor, mask_ratio: float) -> KeptPatches:
    """Keep the floor(N * (1 - mask_ratio)) patches of smallest noise (B, N), at least one.

    Raises: ValueError if mask_ratio is not in [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
    # The small term undoes rounding: 10 * (1 - 0.9) is a little below 1.
    num_kept = max(1, math.floor(noise.shape[1] * (1 - mask_ratio) + 1e-6))
    kept = noise.argsort(dim=1, stable=True)[:, :num_kept].sort(dim=1).values
    masked = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
    return KeptPatches(kept, masked)


class MAE(Objective[KeptPatches]):
    key = "mae"
    reads_text = True  # the decoder attends to the caption

    def heads(self, text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"decoder": decoder}

    def prepare(self, pairs: TrainBatch, question: Question | None, answer: Tensor | None) -> KeptPatches:
        batch, _, height, width = pairs.image_1.shape
        num_patches = height * width // self.settings.patch_size**2
        return draw_kept_patches(batch, num_patches, self.settings.mask_ratio, device=pairs.image_1.device)

    def loss(self, step: Step, prepared: KeptPatches) -> Tensor:
        image, mask = step.lesson.image[: len(prepared.kept)], step.lesson.pairs.text_2.attention_mask
        prediction = step.model.reconstruct(image, prepared.kept, step.passes.text_tokens, mask)
        return mae_loss(prediction, image, prepared.masked, self.settings.patch_size)
