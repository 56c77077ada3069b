"""Momentum-based replaced token detection (MRTD): which tokens of the caption did the momentum encoder rewrite?

B captions, L tokens, M places, V vocabulary. Source: RaSa (arXiv:2305.13653), sensitivity-aware learning.

As published, captions are rewritten for their own image. The better the momentum encoder sees, the more its words are
such as the image allows, and the less there is to find. An option of ours lets it rewrite them for the image of another
pair: fluent captions with words that only a look at the image can refute.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.batches import TrainBatch
from dataset.texts import TextRows
from losses.draws import draw_index
from losses.masking import IGNORED, mask_tokens, places_of
from losses.objective import Objective, Question, Step
from losses.precision import at_least_float32


class ReplacedTokens(NamedTuple):
    input_ids: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, 1 where another token than in the caption, 0 where the same, -100 at [CLS], padding


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


def places_of_words(input_ids: Tensor, attention_mask: Tensor, *, cls_id: int, at_most: int | None = None) -> Tensor:
    """Rows and columns (M, 2) of all tokens (B, L) but [CLS] and padding; at_most as in `losses.masking.places_of`."""
    return places_of((attention_mask == 1) & (input_ids != cls_id), at_most)


def replaced_tokens(
    momentum_logits: Tensor, places: Tensor, input_ids: Tensor, *, generator: torch.Generator | None = None
) -> ReplacedTokens:
    """Rewrite captions by the momentum encoder's word distribution.

    Args:
        momentum_logits: (M, V) for the masked caption, at the places to rewrite: all but [CLS] and padding.
        places: (M, 2) rows and columns of these, from places_of_words.
        input_ids: (B, L) of the original.
    """
    with torch.no_grad():
        return apply_replacement(draw_index(momentum_logits.float().softmax(dim=-1), generator), places, input_ids)


def apply_replacement(drawn: Tensor, places: Tensor, input_ids: Tensor) -> ReplacedTokens:
    """The deterministic part of replaced_tokens: drawn (M,), the words at places."""
    where = tuple(places.T)
    own, is_word = input_ids[where], places[:, 1] > 0  # column 0 holds [CLS]: an entry that belongs to no word
    labels = torch.full_like(input_ids, IGNORED).index_put(where, torch.where(is_word, (drawn != own).long(), IGNORED))
    return ReplacedTokens(input_ids.index_put(where, torch.where(is_word, drawn, own)), labels)


class MRTD(Objective[ReplacedTokens]):
    key = "mrtd"
    has_rows = True

    def heads(self, text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"mrtd_head": nn.Linear(text_width, 2)}

    def ask(self, pairs: TrainBatch) -> Question:
        text = pairs.text_1
        probability = self.settings.mrtd_mask_probability
        masked = mask_tokens(text.input_ids, text.attention_mask, probability=probability, **self.settings.words())
        cls_id = self.settings.cls_id
        places = places_of_words(text.input_ids, text.attention_mask, cls_id=cls_id, at_most=text.num_words())
        return Question(masked.input_ids, places, masked.labels, self.settings.mrtd_other_image)

    def prepare(self, pairs: TrainBatch, question: Question | None, answer: Tensor | None) -> ReplacedTokens:
        assert question is not None
        assert answer is not None
        return replaced_tokens(answer, question.places, pairs.text_1.input_ids)

    def num_averaged(self, prepared: ReplacedTokens) -> Tensor:
        return (prepared.labels >= 0).sum()

    def rows(self, pairs: TrainBatch, prepared: ReplacedTokens) -> TextRows:
        tokens = pairs.text_1.tokens()
        return TextRows(prepared.input_ids, tokens, wanted=tokens)

    def loss(self, step: Step, prepared: ReplacedTokens) -> Tensor:
        return mrtd_loss(step.model.head("mrtd_head")(step.passes.own_hidden[self.key]), prepared.labels)
