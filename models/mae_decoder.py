"""Masked-autoencoder decoder that reads the caption.

B batch, N patches, K kept ones, D width, L text tokens, P patch size in px.

Source: MAE (arXiv:2111.06377, section 3) with cross-attention to the text as in MARS (arXiv:2407.04287, section 3.3).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import KeyMask, attend
from models.image_features import ImageFeatures
from models.joined_weights import Join, JoinedLinear, JoinedModule, join
from utils.precision import product_dtype

FEED_FORWARD_RATIO = 4


class DecoderAttention(JoinedModule):
    """Multi-head attention without biases on queries, keys and values."""

    def __init__(self, width: int, context_width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(context_width, num_heads * head_dim, bias=False)
        self.to_v = nn.Linear(context_width, num_heads * head_dim, bias=False)
        self.to_out = JoinedLinear(num_heads * head_dim, width)

    def joins(self) -> dict[str, Join]:
        return {"queries": join(self.to_q.weight), "keys_values": join(self.to_k.weight, self.to_v.weight)}

    def forward(self, x: Tensor, context: Tensor, mask: KeyMask | Tensor | None = None) -> Tensor:
        """(B, T, D) over (B, S, context) -> (B, T, D). mask: as of `models.attention.attend`."""
        queries = F.linear(x, self.joined("queries"))
        keys, values = F.linear(context, self.joined("keys_values")).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in (queries, keys, values))
        attended = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.to_out(attended)


class GatedFeedForward(nn.Module):
    """GEGLU feed-forward (arXiv:2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = JoinedLinear(width, 2 * FEED_FORWARD_RATIO * width)
        self.contract = JoinedLinear(FEED_FORWARD_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.expand(x).chunk(2, dim=-1)
        return self.contract(x * F.gelu(gate))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; each with LayerNorm before it and a residual."""

    def __init__(self, width: int, context_width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = DecoderAttention(width, width, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = DecoderAttention(width, context_width, num_heads, head_dim)
        self.norm3 = nn.LayerNorm(width)
        self.ff = GatedFeedForward(width)

    def forward(self, x: Tensor, text_tokens: Tensor, mask: KeyMask) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), text_tokens, mask)
        return x + self.ff(self.norm3(x))


class MAEDecoder(nn.Module):
    """Rebuild the masked patches' pixels from the kept tokens and the caption.

    Args:
        width: of the image tokens and of the decoder; head_dim defaults to width // num_heads.
    """

    def __init__(
        self,
        *,
        num_patches: int,
        patch_size: int,
        width: int,
        text_width: int,
        depth: int = 4,
        num_heads: int = 8,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        head_dim = head_dim or width // num_heads
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, width))
        self.blocks = nn.ModuleList(DecoderBlock(width, text_width, num_heads, head_dim) for _ in range(depth))
        self.prediction = JoinedLinear(width, patch_size**2 * 3)
        for embedding in (self.mask_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)

    def forward(self, kept_features: ImageFeatures, kept: Tensor, text_tokens: Tensor, text_mask: Tensor) -> Tensor:
        """Predict every patch: (B, N, P*P*3).

        Args:
            kept_features: of the masked pass, K patches.
            kept: (B, K), their places in raster order.
            text_tokens: (B, L, text width); text_mask (B, L), 0 = padding.
        """
        num_patches = self.pos_embed.shape[1] - 1
        tokens = self.mask_token.to(kept_features.patches.dtype).expand(len(kept), num_patches, -1)
        tokens = tokens.scatter(1, kept[..., None].expand_as(kept_features.patches), kept_features.patches)
        x = torch.cat([kept_features.pooled[:, None], tokens], dim=1) + self.pos_embed  # (B, 1+N, D)
        mask = KeyMask(text_mask)
        text_tokens = text_tokens.to(product_dtype(text_tokens))  # once, not in each block
        for block in self.blocks:
            x = block(x, text_tokens, mask)
        return self.prediction(x[:, 1:])
