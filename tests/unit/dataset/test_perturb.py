"""Changed captions: always the same for a seed, as strong as documented, never empty."""

from collections import Counter

import pytest

from dataset.perturb import DROP_SHARE, PERTURBATIONS, SEED, SHORTEST_MISSPELT, TYPO_SHARE, perturbed, perturbed_set
from dataset.sets import CaptionSet, encode_captions
from dataset.tokenizer import load_tokenizer
from utils.errors import UserError

CAPTION = "a young woman with blonde hair is wearing a black woolen coat over a grey dress and black tights"
CAPTIONS = [f"{CAPTION} number {row}" for row in range(300)]


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_depends_on_seed_and_row_alone(kind):
    changed = perturbed(CAPTIONS, kind)
    assert changed == perturbed(CAPTIONS, kind, SEED)
    assert changed[:10] == perturbed(CAPTIONS[:10], kind)
    if kind != "shortened":
        assert changed != perturbed(CAPTIONS, kind, SEED + 1)
        first = {text.removesuffix(f" number {row}") for row, text in enumerate(changed)}
        assert len(first) > 200  # not every caption in the same way


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("caption", ["man", "a", "42", "", "man coat"])
def test_a_word_stays_and_nothing_breaks(kind, caption):
    for changed in perturbed([caption] * 50, kind):
        assert bool(changed.split()) == bool(caption)
        assert changed == " ".join(changed.split())


def test_typos_are_one_slip_in_the_share_of_long_words():
    pairs = [
        (own, word)
        for caption, changed in zip(CAPTIONS, perturbed(CAPTIONS, "typos"), strict=True)
        for own, word in zip(caption.split(), changed.split(), strict=True)
    ]
    long = [(own, word) for own, word in pairs if len(own) >= SHORTEST_MISSPELT]
    assert all(own == word for own, word in pairs if len(own) < SHORTEST_MISSPELT)
    slips = [(own, word) for own, word in long if own != word]
    # exchanging or doubling equal letters, and next keys of digits, change nothing: a few slips cannot be seen
    assert 0.85 * TYPO_SHARE < len(slips) / len(long) < 1.05 * TYPO_SHARE
    for own, word in slips:
        assert abs(len(own) - len(word)) <= 1
        assert sum(((Counter(own) - Counter(word)) + (Counter(word) - Counter(own))).values()) <= 2
    assert {len(word) - len(own) for own, word in slips} == {-1, 0, 1}


def test_dropped_words_leave_the_others_in_order():
    changed = perturbed(CAPTIONS, "dropped_words")
    for caption, text in zip(CAPTIONS, changed, strict=True):
        words = iter(caption.split())
        assert all(word in words for word in text.split())
    share = sum(len(text.split()) for text in changed) / sum(len(caption.split()) for caption in CAPTIONS)
    assert share == pytest.approx(1 - DROP_SHARE, abs=0.02)


def test_shortened_is_the_first_half():
    assert perturbed(["one two three four five", "one"], "shortened") == ["one two three", "one"]


def test_shuffled_keeps_the_words():
    changed = perturbed(CAPTIONS, "shuffled")
    assert [sorted(text.split()) for text in changed] == [sorted(caption.split()) for caption in CAPTIONS]
    assert sum(text != caption for text, caption in zip(changed, CAPTIONS, strict=True)) == len(CAPTIONS)


def test_unknown_kind_names_the_known():
    with pytest.raises(UserError, match="unknown perturbation 'noise': choose one of typos"):
        perturbed(CAPTIONS, "noise")


def test_set_has_the_same_people_and_other_tokens(tiny_bert):
    tokenizer = load_tokenizer(str(tiny_bert))
    captions = CaptionSet(encode_captions(CAPTIONS[:4], [[]] * 4, tokenizer, 12), [3, 3, 5, 6], CAPTIONS[:4])
    changed = perturbed_set(captions, "shuffled", tokenizer, 12)
    assert changed.person_id.tolist() == [3, 3, 5, 6]
    assert changed.texts == perturbed(CAPTIONS[:4], "shuffled")
    assert all(len(changed[row].text.input_ids) <= 12 for row in range(4))
    assert any(changed[row].text.input_ids.tolist() != captions[row].text.input_ids.tolist() for row in range(4))
