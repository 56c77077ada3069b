"""Attribute chunks of a query, found as in training (dataset/attributes.py). L tokens, C chunks.

Unlike the captions of a data set, the sentences that people search for are not written to a cache.
"""

from threading import Lock
from typing import NamedTuple

from dataset.attributes import Chunks, chunk_ids, chunks_by_rules, chunks_by_spacy, installed_parser
from dataset.tokenizer import Encoded

parsing = Lock()  # a spaCy pipeline serves one thread at a time


class QueryChunks(NamedTuple):
    texts: list[str]  # C, as they stand in the sentence
    spans: Chunks  # C
    ids: list[int]  # L, per token: k = in the k-th chunk, from 1; 0 = in none


def chunks_of(sentence: str, encoded: Encoded) -> QueryChunks:
    """Chunks of a cleaned sentence. A chunk of which truncation left no token is left out."""
    found = [spans for spans in _find(sentence) if any(chunk_ids(encoded.offsets, [spans]))]
    texts = [" ".join(sentence[start:end] for start, end in spans) for spans in found]
    return QueryChunks(texts, found, chunk_ids(encoded.offsets, found))


def no_chunks(encoded: Encoded) -> QueryChunks:
    """For a model that cannot score chunks."""
    return QueryChunks([], [], [0] * len(encoded.ids))


def _find(sentence: str) -> Chunks:
    model = installed_parser().model
    with parsing:
        return next(iter(chunks_by_rules([sentence]) if model is None else chunks_by_spacy([sentence], model)))
