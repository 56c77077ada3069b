"""Frequent words: what is counted, by spaCy and by the list of words, and what is drawn."""

from collections import Counter

import pytest

from dataset.attributes import Parser
from figures import words as figure_words
from figures.__main__ import main
from figures.words import WordCounts, count_words, draw_words
from utils.errors import UserError

CAPTIONS = ["the man wears a red t shirt and black shoes", "a man with black hair and a black bag", "she is walking"]


@pytest.mark.parametrize("tagger", ["spaCy", "word list"])
def test_nouns_and_adjectives_are_counted(tagger, monkeypatch):
    if tagger == "word list":
        monkeypatch.setattr(figure_words, "installed_parser", lambda: Parser("word list", None))
    elif figure_words.installed_parser().model is None:
        pytest.skip("no English spaCy model")
    counts = count_words(CAPTIONS)
    assert counts.source.startswith(tagger)
    assert counts.nouns == Counter(man=2, shirt=1, shoes=1, hair=1, bag=1)
    assert counts.adjectives == Counter(black=3, red=1)
    assert counts.num_captions == 3


def test_bars_are_the_most_frequent_in_order():
    nouns = Counter({f"noun{n}": 100 - n for n in range(30)})
    left, right = draw_words(WordCounts(nouns, Counter(black=7, red=2), 50, "spaCy"), "title").axes
    assert [bar.get_width() for bar in left.patches] == [100 - n for n in range(25)]
    assert [label.get_text() for label in left.get_yticklabels()][:2] == ["noun0", "noun1"]
    assert [bar.get_width() for bar in right.patches] == [7, 2]
    assert [text.get_text() for text in right.texts] == ["7", "2"]
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the most frequent at the top


def test_captions_without_such_words():
    with pytest.raises(UserError, match="no noun and no adjective"):
        draw_words(WordCounts(Counter(), Counter(), 1, "spaCy"), "title")


def test_command_writes_both_files(tiny_benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figure_words, "installed_parser", lambda: Parser("word list", None))
    main(["words", str(tiny_benchmark), "--splits", "test", "--out", str(tmp_path / "w")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "w.png"), str(tmp_path / "w.pdf")]
    assert (tmp_path / "w.png").stat().st_size > 1000
