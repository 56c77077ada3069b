"""Random draws of a training step: hard negatives, masked words, replaced words, hidden patches.

B samples, L tokens, V vocabulary, N patches, K kept patches. Every draw takes a `generator` on the device of its
tensors (None = torch's global one). A GPU never has to be waited for where numbers are given as `at_most`. Where a draw
and its use are two functions, the second is deterministic. Sources: ALBEF (arXiv:2107.07651) and RaSa
(arXiv:2305.13653) for negatives and words, MAE (arXiv:2111.06377) for patches.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # label of a place that a loss leaves out


class Negatives(NamedTuple):
    image_index: Tensor  # (B,) for each text the row of an image of another person
    text_index: Tensor  # (B,) for each image the row of a text of another person
    image_valid: Tensor  # (B,) bool, False where the batch holds no other person; the index then means nothing
    text_valid: Tensor  # (B,) bool


class MaskDraws(NamedTuple):
    masked: Tensor  # (B, L) bool, places to hide, before [CLS] and padding are excepted
    to_mask_token: Tensor  # (B, L) bool, 80 %: the place becomes [MASK]
    to_random_word: Tensor  # (B, L) bool, half of the remaining 20 %: it becomes random_words; the others stay
    random_words: Tensor  # (B, L) int64


class MaskedTokens(NamedTuple):
    input_ids: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, the original id where masked, else -100


class ReplacedTokens(NamedTuple):
    input_ids: Tensor  # (B, L) int64
    labels: Tensor  # (B, L) int64, 1 where another token than in the caption, 0 where the same, -100 at [CLS], padding


class KeptPatches(NamedTuple):
    kept: Tensor  # (B, K) int64, in raster order
    masked: Tensor  # (B, N) bool, True where the patch is hidden


def negative_weights(logits: Tensor, person_id: Tensor) -> Tensor:
    """Chance of each batch member to be drawn as negative: (B, B) similarity / temperature -> (B, B).

    The softmax of a row with its own person set to 0, scaled to sum to 1; all 0 where there is no other person.
    """
    same_person = person_id[:, None] == person_id[None, :]
    # Masked before the softmax: at a low temperature all that is left could round to 0 after it.
    lowest = torch.finfo(torch.float32).min
    return logits.float().masked_fill(same_person, lowest).softmax(dim=1).masked_fill(same_person, 0.0)


def draw_negatives(
    logits_i2t: Tensor, logits_t2i: Tensor, person_id: Tensor, generator: torch.Generator | None = None
) -> Negatives:
    """Draw one negative text for each image and one negative image for each text, the more similar the likelier.

    Args: logits_i2t, logits_t2i (B, B) similarity / temperature within the batch; person_id (B,).
    """
    with torch.no_grad():
        text_index = _draw_index(negative_weights(logits_i2t, person_id), generator)
        image_index = _draw_index(negative_weights(logits_t2i, person_id), generator)
    valid = (person_id[:, None] != person_id[None, :]).any(dim=1)
    return Negatives(image_index, text_index, valid, valid)


def mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    probability: float,
    vocab_size: int,
    mask_id: int,
    cls_id: int,
    generator: torch.Generator | None = None,
) -> MaskedTokens:
    """Hide a share of the words as BERT does, never [CLS] nor padding: input_ids, attention_mask (B, L), 1 = token."""
    draws = draw_mask(input_ids, probability=probability, vocab_size=vocab_size, generator=generator)
    return apply_mask(input_ids, attention_mask, draws, mask_id=mask_id, cls_id=cls_id)


def draw_mask(
    input_ids: Tensor, *, probability: float, vocab_size: int, generator: torch.Generator | None = None
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

    at_most: M is this number, what is missing being row 0, column 0: there stands a [CLS], which no loss counts.
    None = they are counted, for which a GPU has to be waited for.
    """
    return chosen.nonzero() if at_most is None else torch.nonzero_static(chosen, size=at_most, fill_value=0)


def most_masked(words: int, probability: float) -> int:
    """More words than that are masked, of so many, once in a thousand million draws: six standard deviations."""
    spread = math.sqrt(words * probability * (1 - probability))
    return min(words, math.ceil(words * probability + 6 * spread))


def places_of_words(input_ids: Tensor, attention_mask: Tensor, *, cls_id: int, at_most: int | None = None) -> Tensor:
    """Rows and columns (M, 2) of all tokens (B, L) but [CLS] and padding; at_most is their exact number or None."""
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
        return apply_replacement(_draw_index(momentum_logits.float().softmax(dim=-1), generator), places, input_ids)


def apply_replacement(drawn: Tensor, places: Tensor, input_ids: Tensor) -> ReplacedTokens:
    """The deterministic part of replaced_tokens: drawn (M,), the words at places."""
    where = tuple(places.T)
    labels = torch.full_like(input_ids, IGNORED).index_put(where, (drawn != input_ids[where]).long())
    return ReplacedTokens(input_ids.index_put(where, drawn), labels)


def draw_kept_patches(
    batch: int,
    num_patches: int,
    mask_ratio: float,
    *,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> KeptPatches:
    """Choose for each image the patches that the masked pass sees, all subsets of their number being equally likely."""
    return kept_patches(torch.rand(batch, num_patches, device=device, generator=generator), mask_ratio)


def kept_patches(noise: Tensor, mask_ratio: float) -> KeptPatches:
    """Keep the floor(N * (1 - mask_ratio)) patches of smallest noise (B, N), at least one.

    Raises: ValueError if mask_ratio is not in [0, 1).
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f"mask_ratio must be in [0, 1), got {mask_ratio}")
    # The small term undoes rounding: 10 * (1 - 0.9) is a little below 1.
    num_kept = max(1, math.floor(noise.shape[1] * (1 - mask_ratio) + 1e-6))
    kept = noise.argsort(dim=1, stable=True)[:, :num_kept].sort(dim=1).values
    masked = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
    return KeptPatches(kept, masked)


def _draw_index(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw an index of the last axis with chances in proportion to weights: (..., V) -> (...).

    Inverts the cumulative sum, with one random number per row; torch.multinomial draws one per entry, which takes
    several times as long on a vocabulary, and makes a GPU wait for its checks. Rows of zeros or NaN give any index.
    """
    cumulative = weights.cumsum(dim=-1)
    # In (0, total], so that the first entry to reach it exists and has a weight above 0.
    share = 1 - torch.rand((*weights.shape[:-1], 1), device=weights.device, generator=generator)
    index = torch.searchsorted(cumulative, share * cumulative[..., -1:])
    return index.squeeze(-1).clamp(max=weights.shape[-1] - 1)
