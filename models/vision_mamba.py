"""Vision Mamba (Vim) image encoder. B batch, H W pixels, M patches, D width.

The class token sits in the middle of the sequence, at M // 2, and row i of the position embedding belongs to position i
of the sequence, class token included. Source: arXiv:2401.09417; parameter names of its published checkpoints.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from models.fused import ResidualAndNorm, add_rms_norm
from models.image_features import ImageFeatures, check_image_size, gather_patches
from models.joined_weights import Join, JoinedModule, join
from models.mamba_mixer import BidirectionalMambaMixer
from models.positions import Grid, resize_positions

NORM_EPS = 1e-5


class PatchEmbed(JoinedModule):
    """Cut an image into square patches and project each: (B, 3, H, W) -> (B, M, D), raster order."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def joins(self) -> dict[str, Join]:
        assert self.proj.bias is not None
        return {"weight": join(self.proj.weight), "bias": join(self.proj.bias)}

    def forward(self, image: Tensor) -> Tensor:
        projected = F.conv2d(image, self.joined("weight"), self.joined("bias"), self.proj.stride)
        return projected.flatten(2).transpose(1, 2)


class ResidualNorm(nn.RMSNorm, JoinedModule):
    """RMSNorm of the residual stream, which takes in the branch of the layer before."""

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.weight, is_factor=False)}

    def add(
        self, residual: Tensor, branch: Tensor | None, row_scale: Tensor | None, dtype: torch.dtype | None
    ) -> ResidualAndNorm:
        """Arguments as of `add_rms_norm`."""
        assert self.eps is not None
        return add_rms_norm(residual, branch, row_scale, self.joined("weight"), self.eps, dtype)


class Stream(NamedTuple):
    """What runs from layer to layer: the sum of `residual` and, item by item, row_scale times branch.

    The next norm adds them, in the same pass over memory.
    """

    residual: Tensor  # (B, L, D), fp32
    branch: Tensor | None = None  # (B, L, D), of the layer before
    row_scale: Tensor | None = None  # (B,), from drop path; None: ones


class Block(nn.Module):
    """Norm and mixer. The residual stream stays outside, in fp32."""

    def __init__(self, mixer: BidirectionalMambaMixer, norm: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = norm

    def forward(
        self, residual: Tensor, branch: Tensor | None = None, row_scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Fields of a `Stream` -> the whole residual, and the branch to add to it, (B, L, D) each."""
        residual, normed = _add_and_norm(self.norm, Stream(residual, branch, row_scale))
        return residual, self.mixer(normed)


def _add_and_norm(norm: nn.Module, stream: Stream, dtype: torch.dtype | None = None) -> ResidualAndNorm:
    """dtype: of the normed rows; None: that of the product which follows."""
    if isinstance(norm, ResidualNorm):
        return norm.add(*stream, dtype)
    residual, branch, row_scale = stream
    if branch is not None:
        residual = residual + (branch if row_scale is None else row_scale[:, None, None] * branch)
    return ResidualAndNorm(residual, norm(residual))


class VisionMamba(nn.Module):
    """Encode an image with `depth` bidirectional Mamba blocks, behind the interface of `ImageEncoder`.

    Args:
        image_size: (height, width) in px, multiples of patch_size; may be a rectangle.
        drop_path: probability of dropping the branch of the last layer; it rises linearly from 0 at the first.
        norm_layer: makes the norms of the blocks and the final one; called with the width.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int = 16,
        width: int = 768,
        depth: int = 24,
        d_state: int = 16,
        divide_out: bool = True,
        drop_path: float = 0.0,
        scan_backend: str = "auto",
        norm_layer: Callable[[int], nn.Module] = lambda width: ResidualNorm(width, eps=NORM_EPS),
    ) -> None:
        super().__init__()
        if image_size[0] % patch_size or image_size[1] % patch_size:
            raise ValueError(f"image size {image_size} is not a multiple of the patch size {patch_size}")
        self.image_size, self.patch_size, self.width, self.feature_width = image_size, patch_size, width, width
        self.grid = (image_size[0] // patch_size, image_size[1] // patch_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_tokens = 1 + self.num_patches
        self.patch_embed = PatchEmbed(patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_patches + 1, width))
        self.layers = nn.ModuleList(
            Block(
                BidirectionalMambaMixer(width, d_state=d_state, divide_out=divide_out, scan_backend=scan_backend),
                norm_layer(width),
            )
            for _ in range(depth)
        )
        # Vim drops the input of the next layer, which is the same branch.
        self.drop_paths = nn.ModuleList(DropPath(float(rate)) for rate in torch.linspace(0, drop_path, depth))
        self.norm_f = norm_layer(width)
        self._init_weights()

    def forward(self, image: Tensor) -> ImageFeatures:
        """Encode normalised images (B, 3, H, W). Raises: ValueError if (H, W) is not image_size."""
        check_image_size(image, self.image_size)
        patches, class_token = self._embed(image)
        return self._encode(patches, class_token)

    def encode_masked(self, image: Tensor, kept: Tensor) -> ImageFeatures:
        """Encode only the kept patches: kept (B, K), indices in raster order, since the scan depends on the order.

        The class token goes to the middle of the kept patches, with its usual position row.
        """
        check_image_size(image, self.image_size)
        patches, class_token = self._embed(image)
        return self._encode(gather_patches(patches, kept), class_token)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Run all blocks and the final norm on a sequence (B, L, D) -> (B, L, D)."""
        # fp64 only in tests; otherwise the residual is fp32, whatever dtype autocast gives the branches
        residual = tokens if tokens.dtype == torch.float64 else tokens.float()
        stream = Stream(residual)
        for layer, row_scale in zip(self.layers, self._row_scales(residual), strict=True):
            residual, branch = layer(*stream)
            stream = Stream(residual, branch, row_scale)
        return _add_and_norm(self.norm_f, stream, residual.dtype).normed

    def resize_pos_embed(self, rows: Tensor, old_grid: Grid | None = None) -> Tensor:
        """Resize the position embedding of a checkpoint (1, any, D) to this encoder's image size."""
        return resize_positions(rows, self.grid, class_row_in_middle=True, old_grid=old_grid)

    def _row_scales(self, residual: Tensor) -> Sequence[Tensor | None]:
        """Drop path's 0 or 1 / keep for each item, (B,) per layer, all drawn at once; None: the layer drops nothing."""
        rates = [each.drop_prob for each in self.drop_paths if isinstance(each, DropPath)]
        if not self.training or not any(rates):
            return [None] * len(rates)
        keep = torch.linspace(1 - rates[0], 1 - rates[-1], len(rates), device=residual.device)[:, None]
        return (torch.bernoulli(keep.expand(-1, residual.shape[0])) / keep).to(residual.dtype).unbind()

    def _embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (B, M, D) and class token (B, 1, D), with their position rows added."""
        patches = self.patch_embed(image)
        middle = self.num_patches // 2
        before, own, after = self.pos_embed.split([middle, 1, self.num_patches - middle], dim=1)
        # shape[0], because len() would fix the batch size of an exported graph
        class_token = (self.cls_token + own).expand(image.shape[0], -1, -1)
        return patches + torch.cat([before, after], dim=1), class_token

    def _encode(self, patches: Tensor, class_token: Tensor) -> ImageFeatures:
        middle = patches.shape[1] // 2
        sizes = [middle, patches.shape[1] - middle]
        before, behind = patches.split(sizes, dim=1)  # unlike slices, pieces of one split share one gradient
        tokens = self.encode_tokens(torch.cat([before, class_token.to(patches.dtype), behind], dim=1))
        before, pooled, behind = tokens.split([middle, 1, sizes[1]], dim=1)
        return ImageFeatures(pooled.squeeze(1), torch.cat([before, behind], dim=1))

    def _init_weights(self) -> None:
        """Initialise as Vim: truncated normals for the embeddings, residual branches scaled down with the depth."""
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        fan_in = self.patch_embed.proj.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=fan_in**-0.5)
        assert self.patch_embed.proj.bias is not None
        nn.init.zeros_(self.patch_embed.proj.bias)
        for layer in self.layers:
            assert isinstance(layer, Block)
            nn.init.kaiming_uniform_(layer.mixer.out_proj.weight, a=math.sqrt(5))
            with torch.no_grad():
                layer.mixer.out_proj.weight /= math.sqrt(len(self.layers))
