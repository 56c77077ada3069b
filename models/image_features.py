"""What every image encoder returns and offers, so that nothing downstream knows which one it is."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.positions import Grid


class ImageFeatures(NamedTuple):
    """B batch, N patches (or the kept ones), R registers, D width, F width of the image feature."""

    pooled: Tensor  # (B, F), the image feature: the class token (F = D), or what the registers give
    patches: Tensor  # (B, N, D), raster order, without class token and registers
    registers: Tensor | None = None  # (B, R, D), of an encoder that has them in place of a class token
    register_tokens: bool = True  # the registers are among the tokens

    @property
    def leading(self) -> Tensor:
        """What stands before the patches: the class token (B, 1, D) or the registers (B, R, D)."""
        return self.pooled[:, None] if self.registers is None else self.registers

    @property
    def tokens(self) -> Tensor:
        """(B, K, D), the leading ones and then the patches: what the cross-modal encoder attends to."""
        return torch.cat([self.leading, self.patches], dim=1) if self.register_tokens else self.patches


class ImageEncoder(Protocol):
    """An image encoder of any kind: `models.vision_mamba`, `models.mamba_reg` and `models.vision_transformer`."""

    width: int  # of a token
    feature_width: int  # of the image feature
    num_tokens: int  # K, that the cross-modal encoder attends to
    patch_size: int
    num_patches: int
    grid: Grid

    def __call__(self, image: Tensor) -> ImageFeatures:
        """Encode normalised images (B, 3, H, W)."""

    def encode_masked(self, image: Tensor, kept: Tensor) -> ImageFeatures:
        """Encode only the patches kept (B, K): indices in raster order; the result has K patches."""

    def resize_pos_embed(self, rows: Tensor, old_grid: Grid | None = None) -> Tensor:
        """Fit a checkpoint's position embedding (1, any, D) to the encoder's own image size."""


def check_image_size(image: Tensor, image_size: tuple[int, int]) -> None:
    """Raise ValueError unless image is (B, 3, H, W) with (H, W) = image_size in px."""
    if image.ndim != 4 or image.shape[1] != 3 or tuple(image.shape[-2:]) != image_size:
        raise ValueError(f"expected images (B, 3, {image_size[0]}, {image_size[1]}), got {tuple(image.shape)}")


def gather_patches(patches: Tensor, kept: Tensor) -> Tensor:
    """Rows of patches (B, N, D) by index kept (B, K) -> (B, K, D)."""
    return patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
