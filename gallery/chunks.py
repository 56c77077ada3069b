"""Attribute chunks of a query: found as in training (dataset/attributes.py), scored as in training. L tokens, C chunks.

Sentences that people search for are nowhere stored, unlike the captions of a data set.
"""

from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dataset.attributes import Chunks, chunk_ids, chunks_by_rules, chunks_by_spacy, installed_parser
from dataset.tokenizer import Encoded

_parsing = Lock()  # spaCy's pipelines are for one thread at a time


class QueryChunks(NamedTuple):
    texts: list[str]  # C, as they stand in the sentence
    spans: Chunks  # C
    ids: list[int]  # L, for every token: k in the k-th chunk (from 1), 0 in none


def chunks_of(sentence: str, encoded: Encoded) -> QueryChunks:
    """Chunks of a cleaned sentence that have at least one token left after it was cut to its first tokens."""
    found = [spans for spans in _find(sentence) if any(chunk_ids(encoded.offsets, [spans]))]
    texts = [" ".join(sentence[start:end] for start, end in spans) for spans in found]
    return QueryChunks(texts, found, chunk_ids(encoded.offsets, found))


def no_chunks(encoded: Encoded) -> QueryChunks:
    """For models that cannot judge any."""
    return QueryChunks([], [], [0] * len(encoded.ids))


def chunk_probabilities(itm_head: nn.Module, hidden: Tensor, ids: Tensor) -> Tensor:
    """The matching head on the mean over each chunk's tokens, as `PersonSearchModel` trains it.

    Args:
        hidden: (R, L, D) of the cross-modal encoder, for R images. ids: (L,), 0 = in no chunk.
    Returns: (R, C) probabilities of "this chunk describes this image".
    """
    chunk = torch.arange(1, int(ids.max()) + 1, device=ids.device)
    member = (ids == chunk[:, None]).to(hidden.dtype)  # (C, L)
    mean = member @ hidden / member.sum(dim=1, keepdim=True)
    return itm_head(mean).float().softmax(dim=-1)[..., 1]


def _find(sentence: str) -> Chunks:
    model = installed_parser().model
    with _parsing:
        return next(iter(chunks_by_rules([sentence]) if model is None else chunks_by_spacy([sentence], model)))
