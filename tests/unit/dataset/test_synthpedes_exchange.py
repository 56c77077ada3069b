"""Captions in which one attribute is exchanged."""

import re
from collections import Counter
from random import Random

import pytest

from dataset.captions import clean_caption
from dataset.synthpedes.captions import describe
from dataset.synthpedes.exchange import Exchange, chunks_of, exchanges
from dataset.synthpedes.naming import Caption, named, read_marks, write_marks
from dataset.synthpedes.people import NONE, Person, sample_other, sample_people
from dataset.synthpedes.views import sample_view
from dataset.synthpedes.vocabulary import words_of

Told = tuple[Person, Caption, list[Exchange]]


@pytest.fixture(scope="module")
def told() -> list[Told]:
    rng, found = Random(0), []
    for person, _ in sample_people(300, 0.0, set(), Random(3)):
        caption = describe(person, sample_view(person, rng), rng)
        cleaned = read_marks(clean_caption(write_marks(*caption), 48))
        found.append((person, cleaned, list(exchanges(cleaned, person, rng))))
    return found


def test_chunks_follow_one_another_and_name_one_part():
    shirt = [("red", "upper_colour"), ("white", "pattern_colour"), ("striped", "pattern"), ("shirt", "upper")]
    red, white, striped, noun = (named(words, attribute, "upper") for words, attribute in shirt)
    hair = f"{named('black', 'hair_colour', 'hair')} {named('hair', '', 'hair')} in a {named('bun', 'hair', 'hair')}"
    caption = read_marks(f"a {red} and {white} {striped} {noun} {hair} and {named('boots', 'shoes', 'shoes')}")
    words = [[caption.text[name.start : name.end] for name in chunk] for chunk in chunks_of(caption)]
    assert words == [["red", "white", "striped", "shirt"], ["black", "hair"], ["bun"], ["boots"]]


def test_one_attribute_is_exchanged_and_nothing_else(told):
    for person, caption, found in told:
        for attribute, number, text, spans in found:
            chunk = chunks_of(caption)[number]
            before = [caption.text[name.start : name.end] for name in chunk]
            after = [text[start:end] for start, end in spans]
            assert len(before) == len(after) >= 2
            changed = [(name, new) for name, old, new in zip(chunk, before, after, strict=True) if old != new]
            assert [name.attribute for name, _ in changed] == [attribute]
            value = getattr(person, attribute)
            assert changed[0][1] not in [clean_caption(words, 9) for words in words_of(attribute, value)]
            pieces = [caption.text[: chunk[0].start], caption.text[chunk[-1].end :]]
            assert text.endswith(pieces[1])
            assert re.sub(r"\ban? $", "", text[: spans[0][0]]) == re.sub(r"\ban? $", "", pieces[0])


def test_articles_fit(told):
    for _, _, found in told:
        for exchange in found:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", exchange.text), exchange.text


def test_exchanged_words_are_about_as_frequent_as_true_ones(told):
    """Otherwise frequency alone would tell which of two captions is right."""
    true, other = Counter(), Counter()
    for _, caption, found in told:
        for attribute, number, text, spans in found:
            if attribute == "upper_colour":
                chunk = chunks_of(caption)[number]
                place = [name.attribute for name in chunk].index(attribute)
                true[caption.text[chunk[place].start : chunk[place].end].split(" ")[-1]] += 1
                other[text[slice(*spans[place])].split(" ")[-1]] += 1
    total = sum(true.values())
    assert total > 200
    assert sum(abs(true[word] - other[word]) for word in true | other) / total < 0.4
    assert 0.4 < other["black"] / true["black"] < 2


def test_every_kind_of_attribute_is_exchanged(told):
    counts = Counter(exchange.attribute for _, _, found in told for exchange in found)
    colours = {"upper", "lower", "shoe", "bag", "hat", "hair", "carried", "inner", "scarf", "pattern"}
    kinds = {"upper", "lower", "shoes", "bag", "hat", "hair", "carried", "pattern", "sleeves"}
    assert set(counts) == {f"{name}_colour" for name in colours} | kinds


def test_another_value_goes_with_the_other_attributes():
    rng = Random(0)
    for person, _ in sample_people(200, 0.0, set(), Random(3)):
        upper, shoes = sample_other(person, "upper", rng), sample_other(person, "shoes", rng)
        assert upper not in (person.upper, NONE)
        assert (upper == "dress") is False
        assert person.inner_colour == NONE or upper in ("jacket", "coat", "vest", None)
        assert shoes != "leather shoes" or person.shoe_colour in ("black", "brown")
