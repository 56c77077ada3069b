"""Chunk scores: does the matching head tell a chunk that the picture shows from one with another attribute?

The head scores a chunk as in the attribute loss: on the mean of the cross-modal output over the chunk's tokens, in the
context of the whole caption. Beside it, the language head tells what the model knows whatever its matching head has
learnt: a chunk is as likely as its least likely word, masked alone.
R captions with an exchanged attribute, L tokens, K image tokens, N exchanges.
"""

from functools import cache
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertTokenizer

from dataset.attributes import chunk_ids
from dataset.synthpedes.exchange import exchanges, spans_of
from dataset.texts import Places
from dataset.tokenizer import encode
from evaluation.grounding.cases import Case
from evaluation.grounding.people import Mean, Wins, area_under_curve, count_wins, mean_over_people
from models.evidence_maps import log_probabilities
from models.person_search import MATCH, PersonSearchModel

KINDS = {  # of attributes, as the table has them; every other attribute is a colour
    "upper": "garment", "lower": "garment", "shoes": "garment", "hat": "garment", "bag": "bag or thing",
    "carried": "bag or thing", "hair": "hair length", "hair_colour": "hair colour", "pattern": "pattern",
    "sleeves": "sleeves",
}  # fmt: skip


class Scored(NamedTuple):
    """The scores of a chunk and of the same chunk with another attribute: on its own picture, and on another one."""

    attribute: str
    person_id: int
    shown: float
    other: float
    shown_elsewhere: float
    other_elsewhere: float
    shown_words: float = np.nan  # log-probability in nats, on its own picture; NaN without a trained language head
    other_words: float = np.nan


class ChunkScores(NamedTuple):
    """How well some exchanges are told apart."""

    auc: Mean  # that a chunk which the picture shows scores above one with another attribute
    pairs: Mean  # share of exchanges in which the chunk scores above its own exchanged form
    elsewhere: Mean  # auc where both are scored on a picture of somebody else: what the words alone give away
    words: Mean | None  # auc by the language head, where it was trained
    exchanges: int


def score_chunks(
    model: PersonSearchModel,
    case: Case,
    own: Tensor,
    elsewhere: Tensor,
    tokenizer: BertTokenizer,
    max_words: int,
    *,
    tells_words: bool = True,
) -> list[Scored]:
    """Score all exchanges of a caption.

    Args:
        own, elsewhere: tokens (1, K, D) of its picture and of somebody else's.
        tells_words: whether the model's language head was trained.
    """
    exchanged = list(exchanges(case.caption, case.person, Random(case.number)))
    if not exchanged:
        return []
    ids, numbers = [], []
    for text, spans in [(case.caption.text, spans_of(case.caption)), *((one.text, [one.spans]) for one in exchanged)]:
        encoded = encode(tokenizer, text, max_words)
        ids.append(torch.tensor(encoded.ids))
        numbers.append(torch.tensor(chunk_ids(encoded.offsets, spans)))
    rows = (pad_sequence(ids, batch_first=True), pad_sequence(numbers, batch_first=True))
    lengths = torch.tensor([len(row) for row in ids])
    scores = [_chunk_scores(model, *rows, lengths, image_tokens) for image_tokens in (own, elsewhere)]

    @cache
    def likely(row: int, number: int) -> float:
        return _least_likely(model, ids[row], numbers[row] == number, own, tokenizer.mask_token_id)

    found = []
    for row, one in enumerate(exchanged, 1):
        if one.chunk >= scores[0].shape[1]:  # the caption was cut before the chunk
            continue
        values = [value for of_image in scores for value in (of_image[0, one.chunk], of_image[row, 0])]
        if np.isnan(values).any():
            continue
        if tells_words:
            values += [likely(0, one.chunk + 1), likely(row, 1)]
        found.append(Scored(one.attribute, case.person_id, *map(float, values)))
    return found


def _chunk_scores(
    model: PersonSearchModel, ids: Tensor, numbers: Tensor, lengths: Tensor, image_tokens: Tensor
) -> np.ndarray:
    """Logits of "same person" for the chunks of each row: (R + 1, C), NaN where there is none."""
    device = image_tokens.device
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    ids, mask, numbers = (tensor.to(device) for tensor in (ids, mask, numbers))
    wanted = Places((numbers > 0).long())
    hidden = model.text_encoder.cross_modal(ids, mask, image_tokens, own_images=1, wanted=wanted)
    logits, present = model.chunk_logits(hidden, numbers)
    return logits[..., MATCH].float().masked_fill(~present, torch.nan).cpu().numpy()


def _least_likely(model: PersonSearchModel, ids: Tensor, chunk: Tensor, image_tokens: Tensor, mask_id: int) -> float:
    """The lowest log-probability of the words of a chunk, each masked alone. ids (L,); chunk (L,) bool."""
    words = chunk.nonzero()[:, 0].to(image_tokens.device)
    return float(log_probabilities(model, image_tokens, ids.to(image_tokens.device), words, mask_id).min())


def measure_chunks(scored: list[Scored]) -> dict[str, ChunkScores]:
    """Scores by kind of attribute, and of "all" exchanges."""
    kinds = [KINDS.get(one.attribute, "colour") for one in scored]
    chosen = {"all": scored}
    for kind in sorted(set(kinds)):
        chosen[kind] = [one for one, own in zip(scored, kinds, strict=True) if own == kind]
    return {name: _measured(own) for name, own in chosen.items() if own}


def wins_of(scored: list[Scored]) -> Wins:
    """Of the shown chunks against the exchanged ones, on their own pictures."""
    shown, other = np.array([[one.shown, one.other] for one in scored]).T
    return count_wins(shown, other, _people(scored))


def _measured(scored: list[Scored]) -> ChunkScores:
    person_id = _people(scored)
    won = np.array([[(one.shown > one.other) + 0.5 * (one.shown == one.other)] for one in scored])
    shown, other = np.array([[one.shown_elsewhere, one.other_elsewhere] for one in scored]).T
    told, not_told = np.array([[one.shown_words, one.other_words] for one in scored]).T
    return ChunkScores(
        auc=area_under_curve(wins_of(scored)),
        pairs=mean_over_people(won, person_id)[0],
        elsewhere=area_under_curve(count_wins(shown, other, person_id)),
        words=None if np.isnan(told).any() else area_under_curve(count_wins(told, not_told, person_id)),
        exchanges=len(scored),
    )


def _people(scored: list[Scored]) -> np.ndarray:
    return np.array([one.person_id for one in scored])
