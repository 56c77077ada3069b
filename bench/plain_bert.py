"""BERT written out, padding included: the definition that `models.text_encoder` is measured against.

n texts, L padded tokens, K image tokens, D width. Every pass computes everything anew, even keys and values of images
that it has seen before, and padding too. Source: design of ALBEF (arXiv:2107.07651) and MARS (arXiv:2407.04287).
"""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from models.text_encoder import TextEncoder


def plain_text(encoder: TextEncoder, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Text mode, the layers below fusion_layer: ids and mask (n, L) -> (n, L, D)."""
    hidden = _embed(encoder, input_ids)
    for layer in list(encoder.bert.encoder.layer)[: encoder.fusion_layer]:
        hidden = _layer(layer, hidden, attention_mask, None)
    return hidden


def plain_cross_modal(encoder: TextEncoder, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
    """Cross-modal mode, all layers: ids and mask (n, L) and the image of each text (n, K, width) -> (n, L, D)."""
    hidden = _embed(encoder, input_ids)
    for layer in encoder.bert.encoder.layer:
        hidden = _layer(layer, hidden, attention_mask, image_tokens)
    return hidden


def _embed(encoder: TextEncoder, input_ids: Tensor) -> Tensor:
    embeddings = encoder.bert.embeddings
    words = embeddings.word_embeddings(input_ids)
    positions = embeddings.position_embeddings.weight[: input_ids.shape[1]]
    return embeddings.LayerNorm(words + positions + embeddings.token_type_embeddings.weight[0])


def _layer(layer: Any, hidden: Tensor, attention_mask: Tensor, image_tokens: Tensor | None) -> Tensor:
    hidden = _sublayer(layer.attention, hidden, hidden, attention_mask)
    if image_tokens is not None and hasattr(layer, "crossattention"):
        hidden = _sublayer(layer.crossattention, hidden, image_tokens, None)
    expanded = F.gelu(layer.intermediate.dense(hidden))
    return layer.output.LayerNorm(layer.output.dense(expanded) + hidden)


def _sublayer(attention: Any, hidden: Tensor, context: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Multi-head attention of hidden (n, L, D) over context (n, m, width), with residual and LayerNorm."""
    part, output = attention.self, attention.output
    query, key, value = (
        x.unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
        for x in (part.query(hidden), part.key(context), part.value(context))
    )
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (n, heads, L, m)
    if attention_mask is not None:
        logits = logits.masked_fill(attention_mask[:, None, None] == 0, float("-inf"))
    attended = logits.softmax(dim=-1) @ value
    return output.LayerNorm(output.dense(attended.transpose(1, 2).flatten(2)) + hidden)
