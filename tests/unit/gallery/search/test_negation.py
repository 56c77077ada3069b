import numpy as np
import pytest

from gallery.search import negation
from gallery.search.negation import PROBE_WEIGHT, pushed, read_negations

SENTENCES = {  # sentence -> what is kept, what is denied
    "a man without a hat": ("a man", ["hat"]),
    "a man with no red bag": ("a man", ["red bag"]),
    "a woman in a red dress without a hat or glasses and with a blue bag": (
        "a woman in a red dress, with a blue bag",
        ["hat", "glasses"],
    ),
    "a man who is not wearing glasses and carries a backpack": ("a man, carries a backpack", ["glasses"]),
    "a girl with glasses but not a hat": ("a girl with glasses", ["hat"]),
    "a man wearing a shirt, no hat, and blue jeans": ("a man wearing a shirt, blue jeans", ["hat"]),
    "she has neither a hat nor a bag": ("she", ["hat", "bag"]),
    "A man doesn't have a beard, wears jeans.": ("A man, wears jeans.", ["beard"]),
    "a guy with short hair who doesnt wear glasses": ("a guy with short hair", ["glasses"]),
    "no hat": ("a person", ["hat"]),
}
BY_SPACY = {
    "a man in a jacket that is not black": ("a man in a jacket", ["black jacket"]),
    "a tall man with no facial hair": ("a tall man", ["facial hair"]),
    "a boy without a kurta": ("a boy", ["kurta"]),
}
AFFIRMED = [
    "a man with a red backpack and blue jeans",
    "a woman in pants with an elegant print on the front",
    "a man in a sleeveless shirt whose shoes are not visible",
]


@pytest.fixture(params=["spaCy", "word list"])
def parser(request, monkeypatch) -> str:
    if request.param == "word list":
        without_model = negation.installed_parser()._replace(model=None)
        monkeypatch.setattr(negation, "installed_parser", lambda: without_model)
    elif negation.installed_parser().model is None:
        pytest.skip("no English spaCy model is installed")
    return request.param


def test_denied_things_are_cut_out(parser):
    found = {}
    for sentence in SENTENCES:
        reading = read_negations(sentence)
        found[sentence] = (reading.kept, [each.text for each in reading.negated])
    assert found == SENTENCES


def test_things_that_no_word_list_has(parser):
    for sentence, (kept, denied) in BY_SPACY.items():
        reading = read_negations(sentence)
        expected = (kept, denied) if parser == "spaCy" else (sentence, [])
        assert (reading.kept, [each.text for each in reading.negated]) == expected


@pytest.mark.parametrize("sentence", AFFIRMED)
def test_a_sentence_that_denies_nothing_stays_as_it_is(sentence, parser):
    assert read_negations(sentence) == (sentence, ())


def test_the_probe_says_the_opposite():
    (denied,) = read_negations("a man without a red bag").negated
    assert denied.probe == "a person with a red bag"


def test_a_query_is_pushed_away_from_the_probes():
    vector, *probes = np.eye(3, dtype=np.float32)
    expected = np.array([1, -PROBE_WEIGHT, -PROBE_WEIGHT]) / np.sqrt(1 + 2 * PROBE_WEIGHT**2)
    np.testing.assert_allclose(pushed(vector, probes), expected, rtol=1e-6)
    assert pushed(vector, []) is vector
