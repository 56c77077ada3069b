"""Which words of a caption name what."""

import re
from random import Random

import pytest

from dataset.captions import clean_caption
from dataset.synthpedes.captions import describe
from dataset.synthpedes.naming import Caption, Naming, named, read_marks, without_marks, write_marks
from dataset.synthpedes.people import Person, sample_people
from dataset.synthpedes.views import sample_view
from dataset.synthpedes.vocabulary import words_of

UNNAMED = (  # words that name nothing but the person as a whole, pose and place, and small words
    "a also an and away back boy camera carrying chest dressed elderly facing female from front gentleman girl guy has "
    "he her his holding in is lady little male man of old older on open over pair profile pulled pulling she sideways "
    "standing the this tied to toward towards up walking wearing wears with woman worn young"
)


@pytest.fixture(scope="module")
def captions() -> list[tuple[Person, Caption]]:
    rng = Random(0)
    people = [person for person, _ in sample_people(400, 0.3, set(), Random(3))]
    return [(person, describe(person, sample_view(person, rng), rng)) for person in people]


def test_marks_are_read_and_written():
    marked = f"A {named('red', 'upper_colour', 'upper')} {named('coat', 'upper', 'upper')}."
    caption = read_marks(marked)
    assert caption == ("A red coat.", [("upper_colour", "upper", 2, 5), ("upper", "upper", 6, 10)])
    assert write_marks(*caption) == marked
    assert without_marks(marked) == "A red coat."


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        named("red", "upper_colour", "shoes")


def test_marks_survive_cleaning_and_cutting():
    text = "A Long-Sleeved, navy  blue coat."
    names = [Naming("sleeves", "upper", 2, 14), Naming("upper_colour", "upper", 16, 26)]
    marked = write_marks(text, names)
    whole = read_marks(clean_caption(marked, 10))
    assert whole.text == clean_caption(text, 10) == "a long sleeved navy blue coat"
    assert [whole.text[name.start : name.end] for name in whole.names] == ["long sleeved", "navy blue"]
    cut = read_marks(clean_caption(marked, 4))
    assert cut.text == "a long sleeved navy"
    assert [cut.text[name.start : name.end] for name in cut.names] == ["long sleeved", "navy"]


def test_every_word_is_named_or_known_to_name_nothing(captions):
    for _, (text, names) in captions:
        rest = text
        for name in reversed(names):
            rest = rest[: name.start] + rest[name.end :]
        assert not {word.lower() for word in re.findall(r"[\w-]+", rest)} - set(UNNAMED.split()), text


def test_named_words_are_those_of_the_attribute(captions):
    seen = set()
    for person, (text, names) in captions:
        for attribute, part, start, end in names:
            words = text[start:end].replace("gray", "grey")
            if attribute:
                assert words in words_of(attribute, getattr(person, attribute)), text
            else:
                assert words in ("hair", "scarf", "shirt", "top", "t-shirt", "logo", "print", "design"), text
            seen.add((attribute, part))
    assert len(seen) == 28  # of all kinds
