"""Per-word maps from those of the word pieces. L tokens."""

import numpy as np

from gallery.answers import WordHeat
from gallery.chunks import QueryChunks
from gallery.encode import Sentence


def word_heats(sentence: Sentence, chunks: QueryChunks, heat: np.ndarray) -> list[WordHeat]:
    """One map per word: the mean over its pieces, divided by its maximum; words behind the last token have none.

    Args:
        heat: (L, rows, columns), >= 0, of `models.attention_maps.word_attention`.
    """
    heats, start = [], 0
    for word in sentence.text.split():
        first = sentence.text.index(word, start)
        start = first + len(word)
        pieces = [
            number
            for number, (begin, end) in enumerate(sentence.encoded.offsets)
            if first <= begin < start and end > begin
        ]
        if pieces:
            own = heat[pieces].mean(axis=0)
            own = own / max(float(own.max()), 1e-12)
            heats.append(WordHeat(word, max(chunks.ids[piece] for piece in pieces), own.tolist()))
    return heats
