"""The ViT baseline: timm's VisionTransformer behind the interface of `ImageEncoder`. B batch, N patches, D width.

Source: ViT (arXiv:2010.11929) as used by ALBEF, RaSa and MARS: class token first, no head. Parameter names are timm's,
which the published checkpoints use too.
"""

import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from models.image_features import ImageFeatures, check_image_size, gather_patches
from models.positions import Grid, resize_positions


class VisionTransformer(TimmVisionTransformer):
    """Encode an image with `depth` transformer blocks, behind the interface of `ImageEncoder`."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
            drop_path_rate=drop_path,
            num_classes=0,
            global_pool="token",
        )
        self.image_size, self.width, self.feature_width = image_size, width, width
        self.num_patches = self.patch_embed.num_patches
        self.num_tokens = 1 + self.num_patches

    @property
    def patch_size(self) -> int:
        return self.patch_embed.patch_size[0]

    @property
    def grid(self) -> Grid:
        return self.patch_embed.grid_size

    def forward(self, image: Tensor) -> ImageFeatures:  # type: ignore[override]  # the interface of ImageEncoder
        """Encode normalised images (B, 3, H, W). Raises: ValueError if (H, W) is not image_size."""
        check_image_size(image, self.image_size)
        return self._encode(self._embed(image))

    def encode_masked(self, image: Tensor, kept: Tensor) -> ImageFeatures:
        """Encode only the kept patches: kept (B, K), indices in raster order."""
        check_image_size(image, self.image_size)
        return self._encode(gather_patches(self._embed(image), kept))

    def resize_pos_embed(self, rows: Tensor, old_grid: Grid | None = None) -> Tensor:
        """Resize the position embedding of a checkpoint (1, any, D) to this encoder's image size."""
        return resize_positions(rows, self.grid, class_row_in_middle=False, old_grid=old_grid)

    def _embed(self, image: Tensor) -> Tensor:
        return self.patch_embed(image) + self._positions[:, 1:]  # (B, N, D)

    def _encode(self, patches: Tensor) -> ImageFeatures:
        # shape[0], because len() would fix the batch size of an exported graph
        assert self.cls_token is not None  # timm types it as optional
        class_token = (self.cls_token + self._positions[:, :1]).expand(patches.shape[0], -1, -1)
        tokens = torch.cat([class_token.to(patches.dtype), patches], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return ImageFeatures(tokens[:, 0], tokens[:, 1:])

    @property
    def _positions(self) -> nn.Parameter:
        assert isinstance(self.pos_embed, nn.Parameter)  # timm types it as optional
        return self.pos_embed
