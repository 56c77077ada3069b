"""Words of a query that the model cannot have understood: of another language, made up, or misspelt.

WordPiece splits "asdf" into pieces that the vocabulary has, so the model reads it without a sign of doubt. Here a word
counts as understood if it is in a dictionary of English or in the list of words for clothes (dataset/attributes.py), if
the model's training captions use it often, or if it is made of two such words ("crossbody").
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cache

from spellchecker import SpellChecker

from dataset.attributes import TAGS

USES_TO_LEARN = 5  # in training captions; a slip that occurs less often teaches the model nothing
SHORTEST_PART = 3  # letters, of a word within a word
FUNCTION_WORDS = (  # they say nothing about a person by themselves
    "a an the this that these those his her hers their theirs its he she they it him them who whose which what i we "
    "you my our your and or but nor not no with without in on at of to from by for over under up down into onto out "
    "off near as than like is are was were be been being am has have had having do does did can could will would may "
    "might there here very also both either neither each some any all one"
)


def unknown_words(text: str, *, unknown_pieces: Collection[str] = (), learned: Collection[str] = ()) -> tuple[str, ...]:
    """The words of a cleaned sentence that were not understood, each once, in order.

    Args:
        unknown_pieces: pieces of the sentence that the model reads as [UNK].
        learned: words of the training captions that no dictionary has, by `learned_words`.
    """
    return tuple(dict.fromkeys(word for word in text.split() if not _understood(word, unknown_pieces, learned)))


def understood_share(text: str, unknown: Collection[str]) -> float:
    """Share in [0, 1] of the sentence's words, function words aside, that are not in `unknown`."""
    function_words = FUNCTION_WORDS.split()
    telling = [word for word in text.split() if word in unknown or word not in function_words]
    return sum(word not in unknown for word in telling) / len(telling) if telling else 1.0


def trust_in(text: str, unknown: Collection[str]) -> float:
    """Factor in [0, 1] of the confidence of an answer, if some words of the sentence were not understood.

    The share that was understood, squared: by that factor the described person is less often among the first ten hits
    (measured in docs/decisions/0003-queries.md).
    """
    return understood_share(text, unknown) ** 2


def learned_words(captions: Iterable[str]) -> list[str]:
    """Words that cleaned training captions use at least USES_TO_LEARN times although they are not known otherwise."""
    uses = Counter(word for caption in captions for word in caption.split())
    return sorted(word for word, count in uses.items() if count >= USES_TO_LEARN and not _understood(word))


def _understood(word: str, unknown_pieces: Collection[str] = (), learned: Collection[str] = ()) -> bool:
    if word in learned:
        return True
    parts = re.findall(r"[^\W\d_]+", word)  # two for "jeans&jacket"
    if not parts or any(character.isdigit() for character in word):  # a sign, a number, "5ft"
        return not any(piece in word for piece in unknown_pieces)
    return all(part in learned or _known(part) or _is_compound(part) for part in parts)


def _known(word: str) -> bool:
    words = _dictionary()
    return word in words or (word.endswith("s") and word[:-1] in words)  # "womens", "tshirts"


def _is_compound(word: str) -> bool:
    cuts = range(SHORTEST_PART, len(word) - SHORTEST_PART + 1)
    return any(_known(word[:cut]) and _known(word[cut:]) for cut in cuts)


@cache
def _dictionary() -> frozenset[str]:
    """English words in lower case, without apostrophes, as captions are cleaned."""
    words = SpellChecker(language="en").word_frequency.dictionary
    return frozenset(word.replace("'", "") for word in words) | frozenset(TAGS)
