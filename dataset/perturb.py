"""Captions as people might type them: misspelt, incomplete or in another order. For measuring robustness.

Works on cleaned captions (dataset/captions.py), whose words are separated by single spaces. What a caption becomes
depends on the seed, the kind and its number alone, so the same captions are always changed in the same way.
"""

from collections.abc import Callable, Sequence

import numpy as np
from transformers import BertTokenizer

from dataset.sets import CaptionSet, encode_captions
from utils.errors import UserError

SEED = 0
TYPO_SHARE = 0.2  # of the words of at least SHORTEST_MISSPELT letters: each with this probability
SHORTEST_MISSPELT = 3
DROP_SHARE = 0.2  # of the words: each with this probability
SHORT_SHARE = 0.5  # of the words stay, the first ones

NEIGHBOURS = {  # on a keyboard of the common English layout
    **{"q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl"},
    **{"p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm"},
    **{"k": "jil", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk"},
}


def perturbed(captions: Sequence[str], kind: str, seed: int = SEED) -> list[str]:
    """Each caption changed in the way of one of PERTURBATIONS; a caption keeps at least one word.

    Raises: UserError for an unknown kind.
    """
    if kind not in PERTURBATIONS:
        raise UserError(f"unknown perturbation {kind!r}: choose one of {', '.join(PERTURBATIONS)}")
    change, number = PERTURBATIONS[kind], list(PERTURBATIONS).index(kind)
    return [
        " ".join(change(caption.split(), np.random.default_rng([seed, number, row])))
        for row, caption in enumerate(captions)
    ]


def perturbed_set(captions: CaptionSet, kind: str, tokenizer: BertTokenizer, max_tokens: int) -> CaptionSet:
    """The same queries with their texts changed, cut at max_tokens as the originals are."""
    texts = perturbed(captions.texts, kind)
    return CaptionSet(
        encode_captions(texts, [[]] * len(texts), tokenizer, max_tokens), captions.person_id.tolist(), texts
    )


def with_typos(words: list[str], generator: np.random.Generator) -> list[str]:
    """One slip in some words: two letters exchanged, one left out, one doubled, or one from the next key."""
    chosen = generator.random(len(words)) < TYPO_SHARE
    return [
        _misspell(word, generator) if is_chosen and len(word) >= SHORTEST_MISSPELT else word
        for word, is_chosen in zip(words, chosen, strict=True)
    ]


def _misspell(word: str, generator: np.random.Generator) -> str:
    slip, place = int(generator.integers(4)), int(generator.integers(len(word) - 1))
    letter, following, rest = word[place], word[place + 1], word[place + 2 :]
    before = word[:place]
    if slip == 0:
        return before + following + letter + rest
    if slip == 1:
        return before + following + rest
    if slip == 2:
        return before + letter + letter + following + rest
    near = NEIGHBOURS.get(letter, letter)  # digits stay
    return before + near[int(generator.integers(len(near)))] + following + rest


def with_words_dropped(words: list[str], generator: np.random.Generator) -> list[str]:
    """Without some of the words, wherever they are."""
    kept = generator.random(len(words)) >= DROP_SHARE
    return [word for word, is_kept in zip(words, kept, strict=True) if is_kept] or words[:1]


def shortened(words: list[str], generator: np.random.Generator) -> list[str]:
    """The first half of the words, rounded up."""
    return words[: int(np.ceil(SHORT_SHARE * len(words)))]


def shuffled(words: list[str], generator: np.random.Generator) -> list[str]:
    """The words in random order: what is left when their order says nothing."""
    return [words[place] for place in generator.permutation(len(words))]


PERTURBATIONS: dict[str, Callable[[list[str], np.random.Generator], list[str]]] = {
    "typos": with_typos,
    "dropped_words": with_words_dropped,
    "shortened": shortened,
    "shuffled": shuffled,
}
