"""Attention maps of words."""

import numpy as np

from dataset.tokenizer import encode, load_tokenizer
from gallery.encoding.chunks import QueryChunks
from gallery.encoding.encoder import Sentence
from gallery.search.heat import word_heats


def test_words_have_the_mean_of_their_pieces():
    text = "a a tshirt"
    encoded = encode(load_tokenizer("all-MiniLM-L6-v2"), text, 48)
    assert len(encoded.ids) == 6  # "tshirt" is three pieces
    heat = np.zeros((6, 1, 2))
    heat[1, 0], heat[3, 0], heat[5, 0] = (1, 4), (8, 0), (0, 2)
    words = word_heats(
        Sentence(text, encoded, np.zeros(1)), QueryChunks(["tshirt"], [[(4, 10)]], [0, 0, 0, 1, 1, 1]), heat
    )
    assert [(word.word, word.chunk, word.heat) for word in words] == [
        ("a", 0, [[0.25, 1.0]]),
        ("a", 0, [[0.0, 0.0]]),
        ("tshirt", 1, [[1.0, 0.25]]),
    ]
