"""Chunks and words of a query."""

import numpy as np
import pytest
import torch

from dataset.tokenizer import encode, load_tokenizer
from gallery.chunks import QueryChunks, chunk_probabilities, chunks_of
from gallery.encode import Sentence
from gallery.footprint import chosen_token_shape
from gallery.heat import word_heats
from models.sampling import Negatives
from tests.helpers.tiny_models import tiny_model
from utils.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("all-MiniLM-L6-v2")


def test_chunk_probabilities_are_those_of_training():
    model = tiny_model(seed=3).eval()
    hidden = torch.randn(2, 9, 16)
    ids = torch.tensor([0, 1, 0, 2, 2, 0, 1, 3, 0])
    pair, valid = torch.tensor([0]), torch.tensor([True])
    negatives = Negatives(image_index=pair, text_index=pair, image_valid=valid, text_valid=valid)
    logits, present = model._chunk_outputs(hidden[:1].expand(3, -1, -1), ids[None], negatives)
    assert logits is not None
    assert present is not None
    trained = logits[0, present[0]].softmax(dim=-1)[:, 1]
    torch.testing.assert_close(chunk_probabilities(model.itm_head, hidden, ids)[0], trained)
    assert chunk_probabilities(model.itm_head, hidden, torch.zeros(9, dtype=torch.long)).shape == (2, 0)


def test_chunks_behind_the_cut_are_left_out(tokenizer):
    sentence = "a man with a red backpack and black leather shoes"
    whole = chunks_of(sentence, encode(tokenizer, sentence, 48))
    assert whole.texts == ["red backpack", "black leather shoes"]
    assert whole.ids == [0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 2]
    cut = chunks_of(sentence, encode(tokenizer, sentence, 7))
    assert (cut.texts, cut.ids) == (["red backpack"], [0, 0, 0, 0, 0, 1, 1])
    assert chunks_of("a man", encode(tokenizer, "a man", 48)) == QueryChunks([], [], [0, 0, 0])


def test_words_have_the_mean_of_their_pieces(tokenizer):
    text = "a a tshirt"
    encoded = encode(tokenizer, text, 48)
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


def test_tokens_are_kept_where_they_are_needed_and_fit(debug_config, tmp_path, monkeypatch):
    free = {"bytes": 10**9}
    monkeypatch.setattr("gallery.footprint.shutil.disk_usage", lambda _: type("Usage", (), {"free": free["bytes"]}))
    config = debug_config("eval.rerank_top_k=8")
    shape, per_image = [17, 48], 17 * 48 * 2
    assert chosen_token_shape(config, 1000, "auto", tmp_path / "new" / "index") == shape
    free["bytes"] = 1000 * per_image * 3  # room, but less than four times
    assert chosen_token_shape(config, 1000, "auto", tmp_path) is None
    assert chosen_token_shape(config, 1000, "yes", tmp_path) == shape
    assert chosen_token_shape(config, 1000, "no", tmp_path) is None
    free["bytes"] = 1000 * per_image
    with pytest.raises(UserError, match="--tokens no needs"):
        chosen_token_shape(config, 1000, "yes", tmp_path)
    free["bytes"] = 1000
    with pytest.raises(UserError, match="the index needs"):
        chosen_token_shape(config, 1000, "auto", tmp_path)
    free["bytes"] = 10**9
    assert chosen_token_shape(debug_config("eval.rerank_top_k=0"), 1000, "auto", tmp_path) is None
