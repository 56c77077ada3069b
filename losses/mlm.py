"""Masked language modelling (MLM): which words of the caption are hidden?

M places, V vocabulary. A label of -100 leaves a place out.
Source: BERT (arXiv:1810.04805) and ALBEF (arXiv:2107.07651).
The distillation runs over the vocabulary, as in ALBEF; RaSa's code runs it over the sequence.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.batches import TrainBatch
from dataset.texts import Places, TextRows
from losses.masking import IGNORED, mask_tokens, most_masked, places_of
from losses.objective import Objective, Question, Step
from losses.precision import at_least_float32


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


class MaskedWords(NamedTuple):
    """Own captions with words hidden, and what stood there."""

    input_ids: Tensor  # (n, L)
    places: Tensor  # (M, 2) rows and columns of the hidden words
    labels: Tensor  # (M,) word ids
    momentum_logits: Tensor  # (M, V)


class MLM(Objective[MaskedWords]):
    """Its head is the text encoder's own language head."""

    key = "mlm"
    has_rows = True
    reaches = ("text_encoder.cls",)

    def ask(self, pairs: TrainBatch) -> Question:
        text, likely = pairs.text_1, self.settings.mlm_probability
        in_chunks = self.settings.mlm_attribute_probability or likely
        probability = likely if in_chunks == likely else torch.where(text.attribute_ids > 0, in_chunks, likely)
        masked = mask_tokens(text.input_ids, text.attention_mask, probability=probability, **self.settings.words())
        num_words = text.num_words()
        at_most = None if num_words is None else most_masked(num_words, max(likely, in_chunks))
        return Question(masked.input_ids, places_of(masked.labels != IGNORED, at_most), masked.labels)

    def prepare(self, pairs: TrainBatch, question: Question | None, answer: Tensor | None) -> MaskedWords:
        assert question is not None
        assert answer is not None
        return MaskedWords(question.input_ids, question.places, question.labels[tuple(question.places.T)], answer)

    def num_averaged(self, prepared: MaskedWords) -> Tensor:
        return (prepared.labels >= 0).sum()

    def rows(self, pairs: TrainBatch, prepared: MaskedWords) -> TextRows:
        mask = pairs.text_1.attention_mask
        one = torch.ones((), dtype=mask.dtype, device=mask.device)
        wanted = torch.zeros_like(mask).index_put(tuple(prepared.places.T), one)
        return TextRows(prepared.input_ids, pairs.text_1.tokens(), Places(wanted, len(prepared.places)))

    def loss(self, step: Step, prepared: MaskedWords) -> Tensor:
        logits = step.model.word_logits(step.passes.own_hidden[self.key][tuple(prepared.places.T)])
        return mlm_loss(logits, prepared.labels, prepared.momentum_logits, alpha=step.alpha)
