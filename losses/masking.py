"""Hiding words of captions as BERT does, the draw that mlm and mrtd share. B captions, L tokens, M places.

A draw takes a `generator` on the device of its tensors; None = torch's global one. Draw and use are two functions, and
the second is deterministic. Source: BERT (arXiv:1810.04805, section 3.1), as in ALBEF (arXiv:2107.07651).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dataset.texts import find

IGNORED = -100  # label of a place that a loss leaves out


class MaskDraws(NamedTuple):
    masked: Tensor  # (B, L) bool, places to hide, before [CLS] and padding are excepted
    to_mask_token: Tensor  # (B, L) bool, 80 %: the place becomes [MASK]
    to_random_word: Tensor  # (B, L) bool, half of the remaining 20 %: it becomes random_words; the others stay
    random_words: Tensor  # (B, L) int64


class MaskedTokens(NamedTuple):
    input_ids: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, the original id where masked, else -100


def mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    probability: float | Tensor,
    vocab_size: int,
    mask_id: int,
    cls_id: int,
    generator: torch.Generator | None = None,
) -> MaskedTokens:
    """Hide a share of the words, never [CLS] nor padding: input_ids, attention_mask (B, L), 1 = token.

    probability: of hiding a word, in [0, 1]; (B, L) gives each place its own.
    """
    draws = draw_mask(input_ids, probability=probability, vocab_size=vocab_size, generator=generator)
    return apply_mask(input_ids, attention_mask, draws, mask_id=mask_id, cls_id=cls_id)


def draw_mask(
    input_ids: Tensor, *, probability: float | Tensor, vocab_size: int, generator: torch.Generator | None = None
) -> MaskDraws:
    """The random part of mask_tokens, for every place of input_ids (B, L)."""
    place, kind = torch.rand((2, *input_ids.shape), device=input_ids.device, generator=generator)
    words = torch.randint(vocab_size, input_ids.shape, device=input_ids.device, generator=generator)
    return MaskDraws(place < probability, kind < 0.8, kind >= 0.9, words)


def apply_mask(
    input_ids: Tensor, attention_mask: Tensor, draws: MaskDraws, *, mask_id: int, cls_id: int
) -> MaskedTokens:
    """The deterministic part of mask_tokens; [MASK] wins where a draw asks for both it and a random word."""
    masked = draws.masked & attention_mask.bool() & (input_ids != cls_id)
    hidden = torch.where(masked & draws.to_random_word, draws.random_words, input_ids)
    hidden = hidden.masked_fill(masked & draws.to_mask_token, mask_id)
    return MaskedTokens(hidden, input_ids.masked_fill(~masked, IGNORED))


def places_of(chosen: Tensor, at_most: int | None = None) -> Tensor:
    """Rows and columns (M, 2) of the places chosen (B, L).

    at_most: as in `dataset.texts.find`. Entries behind the last place stand for row 0, column 0: a [CLS], which no loss
    counts.
    """
    return find(chosen, at_most, fill=0)


def most_masked(words: int, probability: float) -> int:
    """A bound on the number of masked words that one draw in a thousand million exceeds: six standard deviations."""
    spread = math.sqrt(words * probability * (1 - probability))
    return min(words, math.ceil(words * probability + 6 * spread))
