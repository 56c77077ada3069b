"""Masked-autoencoder decoder that reads the caption.

B batch, N patches, K kept ones, D width, L text tokens, P patch size in px.

Source: MAE (arXiv:2111.06377, section 3) with cross-attention to the text as in MARS (arXiv:2407.04287, section 3.3).
"""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import KeyMask, attend
from models.fused import ResidualAndNorm, add_layer_norm
from models.image_features import ImageFeatures
from models.joined_weights import Join, JoinedLinear, JoinedModule, join
from utils.precision import product_dtype

FEED_FORWARD_RATIO = 4


class Branch(NamedTuple):
    """What a sublayer adds to the residual: rows + bias."""

    rows: Tensor  # (B, T, D)
    bias: Tensor | None  # (D,); None: the rows have it already


class Stream(NamedTuple):
    """What runs from block to block: residual + branch. The next norm adds them, in the same pass over memory."""

    residual: Tensor  # (B, T, D)
    branch: Branch | None = None

    def whole(self) -> Tensor:
        if self.branch is None:
            return self.residual
        rows, bias = self.branch
        return self.residual + (rows if bias is None else rows + bias)


X = TypeVar("X", Tensor, Stream)


class BranchLinear(JoinedLinear):
    """The last layer of a sublayer: (B, T, any) -> its branch."""

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.weight), "bias": join(self.bias, is_factor=False)}

    def branch(self, x: Tensor) -> Branch:
        """Where launches count, the bias is left to the next norm, whose operator has its gradient at no extra cost."""
        weight, bias = self.joined("weight"), self.joined("bias")
        return Branch(F.linear(x, weight), bias) if self.has_copies else Branch(F.linear(x, weight, bias), None)


class PreNorm(nn.LayerNorm, JoinedModule):
    """LayerNorm of the stream before a sublayer."""

    def joins(self) -> dict[str, Join]:
        return {"weight": join(self.weight, is_factor=False), "bias": join(self.bias, is_factor=False)}

    def add(self, stream: Stream) -> ResidualAndNorm:
        """The whole residual, and its norm in the dtype of the product that follows; (B, T, D) each."""
        rows, bias = stream.branch or (None, None)
        weights = self.joined("weight"), self.joined("bias")
        return add_layer_norm(stream.residual, rows, *weights, self.eps, branch_bias=bias)


class DecoderAttention(JoinedModule):
    """Multi-head attention without biases on queries, keys and values.

    Args: context_width: of the tokens attended to; None: those that attend, width wide.
    """

    def __init__(self, width: int, context_width: int | None, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.of_itself = context_width is None
        self.to_q = nn.Linear(width, num_heads * head_dim, bias=False)
        self.to_k = nn.Linear(context_width or width, num_heads * head_dim, bias=False)
        self.to_v = nn.Linear(context_width or width, num_heads * head_dim, bias=False)
        self.to_out = BranchLinear(num_heads * head_dim, width)

    def joins(self) -> dict[str, Join]:
        queries, *keys_values = self.to_q.weight, self.to_k.weight, self.to_v.weight
        if self.of_itself:
            return {"all": join(queries, *keys_values)}
        return {"queries": join(queries), "keys_values": join(*keys_values)}

    def forward(self, x: Tensor, context: Tensor | None = None, mask: KeyMask | Tensor | None = None) -> Branch:
        """(B, T, D) over (B, S, context) -> (B, T, D). mask: as of `models.attention.attend`."""
        projected = self._of_itself(x) if context is None else self._of_context(x, context)
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in projected)
        attended = attend(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.to_out.branch(attended)

    def _of_itself(self, x: Tensor) -> tuple[Tensor, ...]:
        weight = self.joined("all")
        if self.has_copies:
            return F.linear(x, weight).chunk(3, dim=-1)
        queries, keys_values = weight.split([self.to_q.out_features, 2 * self.to_k.out_features])
        return F.linear(x, queries), *F.linear(x, keys_values).chunk(2, dim=-1)

    def _of_context(self, x: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, self.joined("queries")), *F.linear(context, self.joined("keys_values")).chunk(2, dim=-1)


class GatedFeedForward(nn.Module):
    """GEGLU feed-forward (arXiv:2002.05202)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = JoinedLinear(width, 2 * FEED_FORWARD_RATIO * width)
        self.contract = BranchLinear(FEED_FORWARD_RATIO * width, width)

    def forward(self, x: Tensor) -> Branch:
        x, gate = self.expand(x).chunk(2, dim=-1)
        return self.contract.branch(x * F.gelu(gate))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; each with LayerNorm before it and a residual."""

    def __init__(self, width: int, context_width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.norm1 = PreNorm(width)
        self.attn1 = DecoderAttention(width, None, num_heads, head_dim)
        self.norm2 = PreNorm(width)
        self.attn2 = DecoderAttention(width, context_width, num_heads, head_dim)
        self.norm3 = PreNorm(width)
        self.ff = GatedFeedForward(width)

    def forward(self, x: X, text_tokens: Tensor, mask: KeyMask | Tensor | None) -> X:
        """x: (B, T, D), whole or as a stream; what comes out is the same."""
        residual, normed = self.norm1.add(x if isinstance(x, Stream) else Stream(x))
        residual, normed = self.norm2.add(Stream(residual, self.attn1(normed)))
        residual, normed = self.norm3.add(Stream(residual, self.attn2(normed, text_tokens, mask)))
        stream = Stream(residual, self.ff(normed))
        return stream if isinstance(x, Stream) else stream.whole()


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
        leading = kept_features.leading
        positions: Tensor = self.pos_embed
        if leading.shape[1] > 1:  # registers: all stand at the class token's position
            positions = torch.cat([positions[:, :1].expand(-1, leading.shape[1], -1), positions[:, 1:]], dim=1)
        x = torch.cat([leading, tokens], dim=1) + positions  # (B, 1+N or R+N, D)
        mask = KeyMask(text_mask)
        text_tokens = text_tokens.to(product_dtype(text_tokens))  # once, not in each block
        stream = Stream(x)
        for block in self.blocks:
            stream = block(stream, text_tokens, mask)
        return self.prediction(stream.whole()[:, -num_patches:])
