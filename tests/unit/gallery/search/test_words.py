import json
from random import Random

import numpy as np
import pytest

from dataset.attributes import TAGS
from dataset.captions import clean_caption
from dataset.perturb import with_typos
from dataset.synthpedes.captions import write_caption
from dataset.synthpedes.people import sample_person
from dataset.synthpedes.views import sample_view
from gallery.search.words import learned_words, trust_in, understood_share, unknown_words


def drawn_captions(count: int) -> list[str]:
    random = Random(0)
    people = [sample_person(random) for _ in range(count)]
    return [clean_caption(write_caption(person, sample_view(person, random), random), 90) for person in people]


@pytest.mark.parametrize(
    ("sentence", "unknown"),
    [
        ("asdf zxcvb", ("asdf", "zxcvb")),
        ("穿红色外套的女人", ("穿红色外套的女人",)),
        ("a man in a red jakcet and a jakcet", ("jakcet",)),
        ("der mann mit roter jacke", ("der", "roter", "jacke")),  # "mann" and "mit" are in English film subtitles too
        ("a woman with a crossbody bag and flipflops", ()),
        ("she isnt his mothers daughter", ()),
        ("jeans&jacket 5ft 3 + 4", ()),
    ],
)
def test_words_that_are_not_english(sentence, unknown):
    assert unknown_words(sentence) == unknown


def test_a_sign_is_unknown_if_the_vocabulary_lacks_it():
    assert unknown_words("a man & a ☂", unknown_pieces=["☂"]) == ("☂",)


def test_no_false_alarm_on_ordinary_captions():
    assert unknown_words(" ".join(drawn_captions(500))) == ()
    assert unknown_words(" ".join(TAGS)) == ()


def test_most_slips_of_the_finger_are_noticed():
    words = sorted({word for caption in drawn_captions(200) for word in caption.split() if len(word) > 5})
    misspelt = with_typos(words * 5, np.random.default_rng(0))
    slips = [slip for slip, word in zip(misspelt, words * 5, strict=True) if slip != word]
    assert np.mean([bool(unknown_words(slip)) for slip in slips]) > 0.8


def test_the_share_counts_words_that_say_something():
    assert understood_share("a man in a red jakcet", ("jakcet",)) == pytest.approx(2 / 3)
    assert understood_share("asdf zxcvb", ("asdf", "zxcvb")) == 0
    assert understood_share("he is with her", ()) == 1
    assert trust_in("a man in a red jakcet", ("jakcet",)) == pytest.approx(4 / 9)


def test_words_of_training_captions_are_learned_if_they_come_often():
    captions = ["a kurta and a jakcet"] + ["a red kurta"] * 4
    assert learned_words(captions) == ["kurta"]
    assert unknown_words("a kurta", learned=["kurta"]) == ()
    assert json.dumps(learned_words(captions))  # it goes into a JSON file
