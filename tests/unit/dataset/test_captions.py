import pytest

from dataset.captions import clean_caption


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("A man, in BLACK; he's (very) tall!", "a man in black hes very tall"),
        ("a t-shirt and/or a red-white bag", "a t shirt and or a red white bag"),
        ("<person> walks. <Person> runs", "person walks person runs"),
        ("  two   spaces \t and a tab \n\n", "two spaces and a tab"),
        ("one\nline break inside stays", "one\nline break inside stays"),
        ("ZOË & 100% 人", "zoë & 100% 人"),
        ("?!,.", ""),
        ("", ""),
    ],
)
def test_cleaning_rule(raw, cleaned):
    assert clean_caption(raw, max_words=90) == cleaned


def test_keeps_the_first_max_words():
    assert clean_caption("a t-shirt, blue jeans", max_words=3) == "a t shirt"
    assert clean_caption("a t-shirt, blue jeans", max_words=5) == "a t shirt blue jeans"


def test_cleaning_twice_changes_nothing():
    once = clean_caption("The girl's <person>, in a knee-length  (grey) dress...", max_words=6)
    assert clean_caption(once, max_words=6) == once
