"""Vision Mamba with registers (Mamba-Reg). B batch, M patches (or the kept ones), R registers, q reduction, D width.

Learned registers take the place of Vim's class token. They stand evenly in the sequence: with S = M // (R + 1), a
register follows every S patches, and the patches left over come last. Together they give the image feature. Source:
arXiv:2405.14858; parameter names of its published checkpoints.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.image_features import ImageFeatures
from models.positions import Grid, resize_patch_positions
from models.vision_mamba import NORM_EPS, VisionMamba


class MambaReg(VisionMamba):
    """Vision Mamba with registers in place of the class token.

    Args:
        registers: R.
        register_reduction: q, a divisor of the width. With q > 1 the feature holds D / q numbers per register.
        register_tokens: whether the cross-modal encoder sees the registers too, before the patches.
        others: as of `VisionMamba`.
    """

    def __init__(
        self, *, registers: int, register_reduction: int = 1, register_tokens: bool = True, **others: Any
    ) -> None:
        super().__init__(**others)
        if self.width % register_reduction:
            raise ValueError(f"the width {self.width} is not divisible by the register reduction {register_reduction}")
        self.registers, self.register_tokens = registers, register_tokens
        self.num_tokens = self.num_patches + (registers if register_tokens else 0)
        reduced = self.width // register_reduction
        self.feature_width = registers * reduced
        self.cls_token = nn.Parameter(torch.zeros(1, registers, self.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_patches, self.width))
        self.pos_embed_cls = nn.Parameter(torch.zeros(1, registers, self.width))
        for embedding in (self.cls_token, self.pos_embed, self.pos_embed_cls):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.neck = self.norm_neck = None
        if register_reduction > 1:
            self.neck = nn.Linear(self.width, reduced, bias=False)
            self.norm_neck = nn.RMSNorm(self.feature_width, eps=NORM_EPS)

    def resize_pos_embed(self, rows: Tensor, old_grid: Grid | None = None) -> Tensor:
        """Resize the position embedding of a checkpoint's patches (1, any, D) to this encoder's image size."""
        return resize_patch_positions(rows, self.grid, old_grid)

    def _embed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (B, M, D) and registers (B, R, D), with their position rows added."""
        # shape[0], because len() would fix the batch size of an exported graph
        registers = (self.cls_token + self.pos_embed_cls).expand(image.shape[0], -1, -1)
        return self.patch_embed(image) + self.pos_embed, registers

    def _encode(self, patches: Tensor, registers: Tensor) -> ImageFeatures:
        tokens = self.encode_tokens(insert_registers(patches, registers.to(patches.dtype)))
        registers, patches = take_registers(tokens, self.registers)
        return ImageFeatures(self._feature(registers), patches, registers, self.register_tokens)

    def _feature(self, registers: Tensor) -> Tensor:
        """(B, R, D) -> (B, R * D / q)."""
        if self.neck is None or self.norm_neck is None:
            return registers.flatten(1)
        return self.norm_neck(self.neck(registers).flatten(1).to(registers.dtype))


def insert_registers(patches: Tensor, registers: Tensor) -> Tensor:
    """Patches (B, M, D) and registers (B, R, D) -> the sequence (B, M + R, D)."""
    num_registers, num_patches = registers.shape[1], patches.shape[1]
    stretch = num_patches // (num_registers + 1)
    followed, left_over = patches.split([num_registers * stretch, num_patches - num_registers * stretch], dim=1)
    groups = torch.cat([followed.unflatten(1, (num_registers, stretch)), registers[:, :, None]], dim=2)
    return torch.cat([groups.flatten(1, 2), left_over], dim=1)


def take_registers(tokens: Tensor, num_registers: int) -> tuple[Tensor, Tensor]:
    """Undo `insert_registers`: the sequence (B, M + R, D) -> registers (B, R, D) and patches (B, M, D)."""
    num_patches = tokens.shape[1] - num_registers
    stretch = num_patches // (num_registers + 1)
    in_groups = num_registers * (stretch + 1)
    groups, left_over = tokens.split([in_groups, tokens.shape[1] - in_groups], dim=1)
    followed, registers = groups.unflatten(1, (num_registers, stretch + 1)).split([stretch, 1], dim=2)
    return registers.squeeze(2), torch.cat([followed.flatten(1, 2), left_over], dim=1)
