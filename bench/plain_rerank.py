"""Re-ranking as the published evaluation does it: the definition that `utils.rerank` is measured against.

Query by query: the caption padded to the longest that may occur, repeated for each of its k candidates; their tokens
fetched from host memory; keys and values computed anew; attention written out. I images, K image tokens, L tokens of a
padded caption, D width. Source: evaluation of ALBEF (arXiv:2107.07651), RaSa (arXiv:2305.13653) and MARS
(arXiv:2407.04287).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.person_search import PersonSearchModel


@torch.inference_mode()
def plain_rerank(
    model: PersonSearchModel, image_tokens: Tensor, input_ids: Sequence[Tensor], candidates: Tensor, *, max_words: int
) -> Tensor:
    """Matching scores (queries, k) of captions, each (L,), with the images in the rows of candidates (queries, k)."""
    device = model.itm_head.weight.device
    rows = []
    for ids, images in zip(input_ids, candidates, strict=True):
        padded = F.pad(ids, (0, max_words - len(ids))).repeat(len(images), 1).to(device)
        mask = (torch.arange(max_words) < len(ids)).repeat(len(images), 1).to(device)
        rows.append(plain_match(model, padded, mask, image_tokens[images].to(device)).float().cpu())
    return torch.stack(rows)


def plain_match(model: PersonSearchModel, input_ids: Tensor, is_token: Tensor, image_tokens: Tensor) -> Tensor:
    """The matching head on (n, L) texts, padding included, and (n, K, width) images: (n,)."""
    bert: Any = model.text_encoder.bert
    words = bert.embeddings.word_embeddings(input_ids)
    positions = bert.embeddings.position_embeddings.weight[: input_ids.shape[1]]
    hidden = bert.embeddings.LayerNorm(words + positions + bert.embeddings.token_type_embeddings.weight[0])
    for layer in bert.encoder.layer:
        hidden = _sublayer(layer.attention, hidden, hidden, is_token)
        if hasattr(layer, "crossattention"):
            hidden = _sublayer(layer.crossattention, hidden, image_tokens, None)
        expanded = F.gelu(layer.intermediate.dense(hidden))
        hidden = layer.output.LayerNorm(layer.output.dense(expanded) + hidden)
    return model.itm_head(hidden[:, 0])[:, 1]


def _sublayer(attention: Any, hidden: Tensor, context: Tensor, may_be_attended: Tensor | None) -> Tensor:
    """Multi-head attention of hidden (n, L, D) over context (n, m, width), residual and LayerNorm included."""
    part, output = attention.self, attention.output
    query, key, value = (
        x.unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
        for x in (part.query(hidden), part.key(context), part.value(context))
    )
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (n, heads, L, m)
    if may_be_attended is not None:
        logits = logits.masked_fill(~may_be_attended[:, None, None], -torch.inf)
    attended = logits.softmax(dim=-1) @ value
    return output.LayerNorm(output.dense(attended.transpose(1, 2).flatten(2)) + hidden)
