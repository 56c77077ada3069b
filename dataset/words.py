"""Words of a caption with their word pieces and attribute chunks, for displays per word."""

import re
from typing import NamedTuple

from dataset.attributes import Chunks, chunk_ids
from dataset.tokenizer import Encoded


class CaptionWord(NamedTuple):
    text: str
    chunk: int  # number of its attribute chunk, from 1; 0 = in none
    tokens: list[int]  # its word pieces


def words_in(caption: str, encoded: Encoded, chunks: Chunks) -> list[CaptionWord]:
    """Return the words of a cleaned caption that have a word piece; words behind the last token have none."""
    chunk = chunk_ids(encoded.offsets, chunks)
    words = []
    for match in re.finditer(r"\S+", caption):
        tokens = [n for n, (start, end) in enumerate(encoded.offsets) if start < match.end() and match.start() < end]
        if tokens:
            words.append(CaptionWord(match.group(), max(chunk[token] for token in tokens), tokens))
    return words
