"""Losses on the caption's words: masked language modelling and momentum-based replaced token detection.

M places, V vocabulary, B captions, L tokens. A label of -100 leaves a place out.
Source: BERT and ALBEF (arXiv:2107.07651) for the first, RaSa (arXiv:2305.13653), sensitivity-aware learning, for both.
The distillation runs over the vocabulary, as in ALBEF; RaSa's code runs it over the sequence.
"""

import torch.nn.functional as F
from torch import Tensor

from losses import at_least_float32

IGNORED = -100


def mlm_loss(
    logits: Tensor, labels: Tensor, momentum_logits: Tensor | None = None, *, alpha: float | Tensor = 0.0
) -> Tensor:
    """Cross-entropy of the hidden words, in nats, mean over the places with a label; 0 when there is none.

    Args:
        logits: (M, V) at the masked places (others may be among them, labelled -100).
        labels: (M,) word ids.
        momentum_logits: (M, V) of the momentum encoder; they get no gradient.
        alpha: share of the momentum encoder's softmax in the targets, in [0, 1].
    Raises: ValueError if shapes differ, or if alpha can be above 0 and momentum_logits is missing.
    """
    if logits.shape[:1] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must have the same places")
    logits = at_least_float32(logits)
    labelled = labels != IGNORED
    per_place = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")  # (M,), 0 where ignored
    if momentum_logits is not None:
        if momentum_logits.shape != logits.shape:
            raise ValueError(f"momentum_logits {tuple(momentum_logits.shape)} must be shaped {tuple(logits.shape)}")
        soft_targets = at_least_float32(momentum_logits.detach()).softmax(dim=1)
        distilled = -(soft_targets * logits.log_softmax(dim=1)).sum(dim=1)  # (M,)
        per_place = (1 - alpha) * per_place + alpha * distilled
    elif isinstance(alpha, Tensor) or alpha > 0:  # reading a tensor's value would make the GPU wait
        raise ValueError("alpha above 0 needs momentum_logits")
    return (per_place * labelled).sum() / labelled.sum().clamp(min=1)


def mrtd_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of "is this token another one than in the caption?", in nats; 0 when all places are ignored.

    Args: logits (B, L, 2), second column = replaced; labels (B, L) 1 = replaced, 0 = the caption's own, -100 = ignored.
    Returns: scalar, mean over the places of the whole batch that are not ignored.
    Raises: ValueError if shapes differ.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must have the same places")
    total = F.cross_entropy(
        at_least_float32(logits).flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)
