"""Attribute chunks: the rule, the mapping to word pieces, the cache, and the list of words."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError

import pytest

from dataset import attributes
from dataset.attributes import Parser, attribute_spans, chunk_ids, chunks_by_rules, find_chunks

WORD_LIST = Parser("word list, test", None)


@pytest.fixture
def word_list(monkeypatch):
    """The list of words as parser, counting the captions it is given."""
    parsed: list[str] = []

    def by_rules(captions):
        parsed.extend(captions)
        return chunks_by_rules(captions)

    monkeypatch.setattr(attributes, "installed_parser", lambda: WORD_LIST)
    monkeypatch.setattr(attributes, "chunks_by_rules", by_rules)
    return parsed


def words(caption: str, chunks: attributes.Chunks) -> list[list[str]]:
    return [[caption[start:end] for start, end in chunk] for chunk in chunks]


def test_rule_keeps_adjectives_and_nouns_of_chunks_with_both():
    chunks = [
        [(0, "a", "DET"), (2, "man", "NOUN")],
        [(7, "a", "DET"), (9, "black", "ADJ"), (15, "and", "CCONJ"), (19, "white", "ADJ"), (25, "coat", "NOUN")],
        [(30, "red", "ADJ")],
    ]
    assert attribute_spans(chunks) == [[(9, 14), (19, 24), (25, 29)]]


def test_every_piece_of_a_member_belongs_to_the_chunk():
    # "a khaki hat" as [CLS] a k ##hak ##i hat
    offsets = [(0, 0), (0, 1), (2, 3), (3, 6), (6, 7), (8, 11)]
    assert chunk_ids(offsets, [[(2, 7), (8, 11)]]) == [0, 0, 1, 1, 1, 1]


def test_chunks_behind_the_cut_are_not_counted_and_numbers_have_no_gap():
    offsets = [(0, 0), (0, 3), (4, 7), (8, 11)]
    chunks = [[(0, 3)], [(100, 104)], [(8, 11)], [(200, 203)]]
    assert chunk_ids(offsets, chunks) == [0, 1, 0, 2]


def test_no_chunks():
    assert chunk_ids([(0, 0), (0, 3)], []) == [0, 0]


def test_word_list():
    caption = "a young man with short black hair wears black and white shoes a coat and an ankle length garish dress"
    (chunks,) = chunks_by_rules([caption])
    assert words(caption, chunks) == [
        ["young", "man"],
        ["short", "black", "hair"],
        ["black", "white", "shoes"],
        ["garish", "dress"],
    ]


def test_words_have_one_tag():
    assert not set(attributes.WORDS["A"].split()) & set(attributes.WORDS["N"].split())


def test_captions_are_parsed_once(tmp_path, word_list):
    captions = ["a red coat", "", "a red coat", "blue jeans"]
    first = find_chunks(captions, tmp_path)
    assert [len(chunks) for chunks in first] == [1, 0, 1, 1]
    assert word_list == ["a red coat", "", "blue jeans"]
    assert find_chunks([*captions, "white socks"], tmp_path)[:4] == first
    assert word_list[3:] == ["white socks"]


def test_another_parser_parses_again(tmp_path, word_list, monkeypatch):
    find_chunks(["a red coat"], tmp_path)
    monkeypatch.setattr(attributes, "installed_parser", lambda: Parser("word list, next version", None))
    find_chunks(["a red coat"], tmp_path)
    assert word_list == ["a red coat", "a red coat"]


def test_callers_at_once_parse_once(tmp_path, word_list):
    captions = [f"a red coat {number}" for number in range(50)]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: find_chunks(captions, tmp_path), range(2))
    assert one == two
    assert len(word_list) == 50


def test_one_line_says_that_the_word_list_is_used(tmp_path, monkeypatch, caplog):
    def no_package(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(attributes, "version", no_package)
    with caplog.at_level(logging.WARNING):
        find_chunks(["a red coat", "blue jeans"], tmp_path)
    assert len(caplog.records) == 1
    assert "no English spaCy model" in caplog.text


def test_unwritable_cache(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="make it a writable folder"):
        find_chunks(["a red coat"], tmp_path / "file")


def test_importing_and_reading_the_cache_does_not_import_spacy(tmp_path):
    """In a process of its own, since other tests import spaCy; the parser's key comes from package metadata."""
    code = (
        "import sys; from pathlib import Path; from dataset import attributes as a\n"
        "parser = a.installed_parser(); a.installed_parser = lambda: parser._replace(model=None)\n"
        f"a.find_chunks(['a red coat'], Path({str(tmp_path)!r})); a.installed_parser = lambda: parser\n"
        f"print(a.find_chunks(['a red coat'], Path({str(tmp_path)!r})), 'spacy' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "[[[(2, 5), (6, 10)]]] False"
