"""Captions in which one attribute is exchanged for another that the person might have.

The value is drawn as the generator draws it, and words, verbs and articles fit. So it takes a look at the picture to
tell which of the two captions is right.
"""

import re
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from dataset.attributes import Chunks
from dataset.captions import clean_caption
from dataset.synthpedes.captions import article
from dataset.synthpedes.naming import Caption, Naming
from dataset.synthpedes.people import Person, sample_other
from dataset.synthpedes.vocabulary import BLOUSE, PATTERN_NOUNS, words_of

_TRIES = 5
_MAX_WORDS = 10  # more than any attribute's words are
_IN_PLACE = {"hair": ("short", "long", "shoulder-length"), "pattern": ("striped", "checked", "dotted")}
_THINGS = ("bag", "carried")  # which a caption may say somebody is wearing or pulling


class Exchange(NamedTuple):
    """A chunk of a caption, and the same chunk with another attribute."""

    attribute: str
    chunk: int  # number of the chunk in `chunks_of`
    text: str  # the caption with the other attribute
    spans: list[tuple[int, int]]  # of the chunk's words in that text


def chunks_of(caption: Caption) -> list[list[Naming]]:
    """Words that name one part and follow one another, possibly with "and" between them: "black and white shirt"."""
    chunks: list[list[Naming]] = []
    for name in caption.names:
        before = chunks[-1][-1] if chunks else None
        if before and before.part == name.part and caption.text[before.end : name.start] in (" ", " and "):
            chunks[-1].append(name)
        else:
            chunks.append([name])
    return chunks


def spans_of(caption: Caption) -> Chunks:
    """Places of the words of these chunks."""
    return [[(name.start, name.end) for name in chunk] for chunk in chunks_of(caption)]


def exchanges(caption: Caption, person: Person, rng: Random) -> Iterator[Exchange]:
    """Exchange each attribute of each chunk of two or more words, where the generator has another value for it.

    caption: cleaned (`dataset.captions`).
    """
    for number, chunk in enumerate(chunks_of(caption)):
        for place, name in enumerate(chunk if len(chunk) > 1 else ()):
            words = _other_words(caption, chunk, name, person, rng)
            if words is not None:
                text, spans = _with_words(caption.text, chunk, place, words)
                yield Exchange(name.attribute, number, text, spans)


def _other_words(caption: Caption, chunk: list[Naming], name: Naming, person: Person, rng: Random) -> str | None:
    """Words for another value, which share none with the chunk; None if the attribute cannot be exchanged here."""
    attribute, text = name.attribute, caption.text
    value = getattr(person, attribute) if attribute else ""
    if not attribute or not _stands_alone(attribute, value):
        return None
    if attribute in _THINGS and not re.search(r"\b(carrying|holding) an? $", text[: chunk[0].start]):
        return None
    told = {word for each in chunk for word in text[each.start : each.end].split()}
    told |= {word for words in words_of(attribute, value) for word in _cleaned(words).split()}
    if attribute == "sleeves":
        told = set()  # all of them are "sleeved"
    is_noun = text[name.start : name.end] in PATTERN_NOUNS.get(value, ())
    for _ in range(_TRIES):
        other = sample_other(person, attribute, rng)
        if other is None or not _stands_alone(attribute, other):
            continue
        possible = words_of(attribute, other)
        if attribute == "pattern":  # "checked" only for "striped", "checks" only for "stripes"
            possible = [words for words in possible if (words in PATTERN_NOUNS[other]) == is_noun]
        fitting = [words for words in map(_cleaned, possible) if words != BLOUSE and not told & set(words.split())]
        if fitting:
            return rng.choice(fitting)
    return None


def _stands_alone(attribute: str, value: str) -> bool:
    """Whether one word or compound of a caption tells the value, at the place where it also tells others."""
    return value in _IN_PLACE.get(attribute, (value,)) and not (attribute == "lower" and "skirt" in value)


def _cleaned(words: str) -> str:
    return clean_caption(words, max_words=_MAX_WORDS)


def _with_words(text: str, chunk: list[Naming], place: int, words: str) -> tuple[str, list[tuple[int, int]]]:
    """Put words into a text instead of those of chunk[place]; the text, and where the chunk's words are in it."""
    begin, end = chunk[place].start, chunk[place].end
    before = text[:begin]
    if place == 0:
        before = re.sub(r"\ban? $", lambda _: article(words).split(" ")[0] + " ", before)
    shift = len(before) - begin
    moved = shift + len(words) - (end - begin)  # of what comes behind the words
    spans = [(name.start, name.end) for name in chunk[:place]]
    spans += [(begin + shift, begin + shift + len(words))]
    spans += [(name.start + moved, name.end + moved) for name in chunk[place + 1 :]]
    return before + words + text[end:], spans
