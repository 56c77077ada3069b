"""Attribute loss: the matching head applied to each adjective-noun chunk of a caption.

R image-text pairs (positives, then negatives), C chunks at most. Source: MARS (arXiv:2407.04287), attribute loss.

The published loss gives all chunks of a pair one label. A wrong caption often has some right chunks, so a head that
learns from it tells pairs apart rather than chunks. An option of ours adds the captions that mrtd has rewritten, or has
them take the place of the pairs. In them, a chunk with a replaced word does not fit and stands beside chunks that do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.itm import pair_labels
from losses.mrtd import MRTD
from losses.objective import Objective, ObjectiveSettings, Step
from losses.precision import at_least_float32


def attribute_loss(logits: Tensor, present: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in nats, mean over a pair's chunks, then over the pairs that have any; 0 when none has.

    Every pair weighs the same, however many chunks its caption holds.

    Args:
        logits: (R, C, 2), second column = the chunk fits the image; anything, NaN included, where no chunk is.
        present: (R, C) bool, True where the pair has a chunk; all False leaves a pair out.
        labels: (R,) 1 = positive pair, 0 = negative; or (R, C), a label for each chunk.
    Raises: ValueError if shapes differ.
    """
    if logits.shape[:2] != present.shape or labels.shape not in (present.shape, present.shape[:1]):
        shapes = f"{tuple(logits.shape)}, {tuple(present.shape)}, {tuple(labels.shape)}"
        raise ValueError(f"logits, present and labels must be (R, C, 2), (R, C) and (R,) or (R, C), got {shapes}")
    # Filled before the loss, not masked after it: 0 times NaN would poison the gradient.
    logits = at_least_float32(logits).masked_fill(~present[:, :, None], 0.0)
    chunk_labels = labels if labels.dim() == 2 else labels[:, None].expand_as(present)  # (R, C)
    per_chunk = F.cross_entropy(logits.flatten(0, 1), chunk_labels.flatten(), reduction="none").view(present.shape)
    per_pair = (per_chunk * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)  # (R,), 0 without chunks
    return per_pair.sum() / present.any(dim=1).sum().clamp(min=1)


def chunks_kept(replaced: Tensor, chunk_ids: Tensor, num_chunks: int) -> Tensor:
    """Which chunks of rewritten captions have all their own words: (R, C), 1 = all, 0 = one or more were replaced.

    Args:
        replaced: (R, L) bool, True where a token is another one than in the caption.
        chunk_ids: (R, L), 0 = in no chunk, k = in the text's k-th.
        num_chunks: C, at least the largest of chunk_ids.
    """
    counts = torch.zeros((len(replaced), num_chunks + 1), dtype=torch.long, device=replaced.device)
    return (counts.scatter_add(1, chunk_ids.long(), replaced.long())[:, 1:] == 0).long()


class Attribute(Objective[None]):
    """It shares the model's matching head with itm."""

    key = "attribute"
    reaches = ("itm_head",)

    def __init__(self, settings: ObjectiveSettings) -> None:
        super().__init__(settings)
        self.sees_pairs = self.sees_chunks = settings.attribute_replaced != "only"

    def loss(self, step: Step, prepared: None) -> Tensor:
        parts = [_loss_of_pairs(step)] if self.sees_pairs else []
        parts += [_loss_of_rewritten(step)] if self.settings.attribute_replaced else []
        return torch.stack(parts).sum()


def _loss_of_pairs(step: Step) -> Tensor:
    """The published loss."""
    assert step.passes.pair_hidden is not None
    labels, drawn = pair_labels(step.passes.negatives)
    chunks = step.passes.pair_chunks
    logits, present = step.model.chunk_logits(step.passes.pair_hidden[:, : chunks.shape[1]], chunks)
    return attribute_loss(logits, present & drawn[:, None], labels)


def _loss_of_rewritten(step: Step) -> Tensor:
    """The loss on the captions that mrtd has rewritten, which its own rows of the cross-modal pass hold."""
    chunk_ids = step.lesson.own_pairs[MRTD.key].text_1.attribute_ids
    logits, present = step.model.chunk_logits(step.passes.own_hidden[MRTD.key], chunk_ids)
    replaced = step.lesson.prepared[MRTD.key].labels == 1
    return attribute_loss(logits, present, chunks_kept(replaced, chunk_ids, logits.shape[1]))
