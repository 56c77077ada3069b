"""Probabilistic image-text matching (p-ITM) on the cross-modal class token.

R image-text pairs: n positives, then n images with a wrong text, then n texts with a wrong image.
Source: RaSa (arXiv:2305.13653), relation-aware learning.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.negatives import Negatives
from losses.objective import Objective, Step
from losses.precision import at_least_float32


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


def pair_labels(negatives: Negatives) -> tuple[Tensor, Tensor]:
    """Of the R = 3n pairs: labels (R,), 1 = match, and drawn (R,), False for a negative that could not be drawn."""
    num_pairs = len(negatives.text_valid)
    is_match = torch.arange(3 * num_pairs, device=negatives.text_valid.device) < num_pairs
    return is_match.long(), torch.cat([is_match[:num_pairs], negatives.text_valid, negatives.image_valid])


class ITM(Objective[None]):
    """The matching head, which search needs too, belongs to the model."""

    key = "itm"
    sees_pairs = True
    reaches = ("itm_head",)

    def loss(self, step: Step, prepared: None) -> Tensor:
        assert step.passes.pair_class is not None
        labels, drawn = pair_labels(step.passes.negatives)
        return itm_loss(step.model.match_logits(step.passes.pair_class), labels, drawn)
