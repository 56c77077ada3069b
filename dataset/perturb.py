"""Captions as people might type them, to measure robustness: misspelt, incomplete or in another order.

The input are cleaned captions (dataset/captions.py), whose words are separated by single spaces. The result depends
only on the seed, the kind of change and the row of the caption, so equal inputs always change in the same way.
"""

from collections.abc import Callable, Sequence

import numpy as np
from transformers import BertTokenizer

from dataset.sets import CaptionSet, encode_captions
from utils.errors import UserError

SEED = 0
TYPO_SHARE = 0.2  # probability of a slip in a word of at least SHORTEST_MISSPELT letters
SHORTEST_MISSPELT = 3
DROP_SHARE = 0.2  # probability of dropping a word
SHORT_SHARE = 0.5  # share of the words that stay, from the first one on

NEIGHBOURS = {  # on an English keyboard
    **{"q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl"},
    **{"p": "ol", "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm"},
    **{"k": "jil", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk"},
}


def perturbed(captions: Sequence[str], kind: str, seed: int = SEED) -> list[str]:
    """Change each caption in one of the ways in PERTURBATIONS. A caption keeps at least one word.

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
    """Change the texts of the queries and cut them at max_tokens, as the original ones are."""
    texts = perturbed(captions.texts, kind)
    return CaptionSet(
        encode_captions(texts, [[]] * len(texts), tokenizer, max_tokens), captions.person_id.tolist(), texts
    )


def with_typos(words: list[str], generator: np.random.Generator) -> list[str]:
    """Put one slip into some words: two letters swapped, one left out, one doubled, or one from a neighbouring key."""
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
    """Drop some of the words, wherever they stand."""
    kept = generator.random(len(words)) >= DROP_SHARE
    return [word for word, is_kept in zip(words, kept, strict=True) if is_kept] or words[:1]


def shortened(words: list[str], generator: np.random.Generator) -> list[str]:
    """Keep the first half of the words, rounded up."""
    return words[: int(np.ceil(SHORT_SHARE * len(words)))]


def shuffled(words: list[str], generator: np.random.Generator) -> list[str]:
    """Put the words in random order, so that their order carries no information."""
    return [words[place] for place in generator.permutation(len(words))]


PERTURBATIONS: dict[str, Callable[[list[str], np.random.Generator], list[str]]] = {
    "typos": with_typos,
    "dropped_words": with_words_dropped,
    "shortened": shortened,
    "shuffled": shuffled,
}
