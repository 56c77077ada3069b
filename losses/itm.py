"""Matching losses on the cross-modal class token: probabilistic image-text matching and positive relation detection.

R image-text pairs (positives, then negatives), B positives. Source: RaSa (arXiv:2305.13653), relation-aware learning.
"""

import torch.nn.functional as F
from torch import Tensor

from losses import at_least_float32


def itm_loss(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross-entropy of "does the text describe the image?", in nats, mean over the valid pairs; 0 when there is none.

    Args:
        logits: (R, 2), second column = match.
        labels: (R,) 1 = match, 0 = drawn negative.
        valid: (R,) bool, False for a negative that could not be drawn (a batch with one person only); None = all.
    Raises: ValueError if the number of rows differs.
    """
    if logits.shape[:1] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must have the same rows")
    per_pair = F.cross_entropy(at_least_float32(logits), labels, reduction="none")  # (R,)
    if valid is None:
        return per_pair.mean()
    if valid.shape != labels.shape:
        raise ValueError(f"valid {tuple(valid.shape)} must be shaped like labels {tuple(labels.shape)}")
    return (per_pair * valid).sum() / valid.sum().clamp(min=1)


def prd_loss(logits: Tensor, replaced: Tensor) -> Tensor:
    """Cross-entropy of "was the caption replaced by another one of the same person?", in nats, mean over B.

    Args: logits (B, 2) of the positive pairs, second column = replaced; replaced (B,) 0 or 1.
    """
    return F.cross_entropy(at_least_float32(logits), replaced)
