"""Chunks of a query."""

from dataset.tokenizer import encode, load_tokenizer
from gallery.encoding.chunks import QueryChunks, chunks_of


def test_chunks_behind_the_cut_are_left_out():
    tokenizer = load_tokenizer("all-MiniLM-L6-v2")
    sentence = "a man with a red backpack and black leather shoes"
    whole = chunks_of(sentence, encode(tokenizer, sentence, 48))
    assert whole.texts == ["red backpack", "black leather shoes"]
    assert whole.ids == [0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 2]
    cut = chunks_of(sentence, encode(tokenizer, sentence, 7))
    assert (cut.texts, cut.ids) == (["red backpack"], [0, 0, 0, 0, 0, 1, 1])
    assert chunks_of("a man", encode(tokenizer, "a man", 48)) == QueryChunks([], [], [0, 0, 0])
