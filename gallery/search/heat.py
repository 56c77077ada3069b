"""Maps of words, from the maps of their word pieces. L tokens."""

import numpy as np

from dataset.words import words_in
from gallery.answers import WordHeat
from gallery.encoding.chunks import QueryChunks
from gallery.encoding.encoder import Sentence


def word_heats(sentence: Sentence, chunks: QueryChunks, heat: np.ndarray) -> list[WordHeat]:
    """One map per word: the mean over its pieces, divided by its maximum. Words cut off by truncation are left out.

    Args:
        heat: (L, rows, columns), >= 0, of the word pieces.
    """
    heats = []
    for word in words_in(sentence.text, sentence.encoded, chunks.spans):
        own = heat[word.tokens].mean(axis=0)
        own = own / max(float(own.max()), 1e-12)
        heats.append(WordHeat(word.text, word.chunk, own.tolist()))
    return heats
