"""Re-ranking as the published evaluation does it: the definition that `evaluation.rerank` is measured against.

It goes query by query. The caption is padded to the greatest length allowed and repeated for each of its k candidates.
Their tokens are fetched from host memory, keys and values are computed anew, and attention is written out
(`bench.plain_bert`). L tokens of a caption. Source: evaluation of ALBEF (arXiv:2107.07651), RaSa (arXiv:2305.13653) and
MARS (arXiv:2407.04287).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.plain_bert import plain_cross_modal
from models.person_search import PersonSearchModel


@torch.inference_mode()
def plain_rerank(
    model: PersonSearchModel, image_tokens: Tensor, input_ids: Sequence[Tensor], candidates: Tensor, *, max_words: int
) -> Tensor:
    """Matching scores (queries, k) of captions, each (L,), with the images that candidates (queries, k) names."""
    device = model.itm_head.weight.device
    rows = []
    for ids, images in zip(input_ids, candidates, strict=True):
        padded = F.pad(ids, (0, max_words - len(ids))).repeat(len(images), 1).to(device)
        mask = (torch.arange(max_words) < len(ids)).repeat(len(images), 1).to(device)
        hidden = plain_cross_modal(model.text_encoder, padded, mask, image_tokens[images].to(device))
        rows.append(model.itm_head(hidden[:, 0])[:, 1].float().cpu())
    return torch.stack(rows)
