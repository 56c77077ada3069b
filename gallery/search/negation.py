"""Negations in a query: "without a hat", "no bag", "not wearing glasses".

Models that compare images with captions read "without a hat" much like "with a hat", since captions say what is there.
So the negated part is cut out of the sentence, and the thing that it names is searched for by a sentence of its own
(the probe); images that fit the probe move down. spaCy finds the parts by its dependencies; without spaCy, or without
an English model, the list of words for clothes (dataset/attributes.py) replaces the parser.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataset.attributes import TAGS, Span, english_pipeline, installed_parser
from gallery.encoding.chunks import parsing

APOSTROPHE = "['\u2019]"
TRIGGER = re.compile(
    rf"\b(?:without|no|not|never|neither|nor|cannot|(?:is|are|was|were|do|does|did|has|have|had|ca)n{APOSTROPHE}?t)\b",
    re.IGNORECASE,
)
DETERMINERS = {"no", "any", "not", "neither", "either", "nor"}  # not part of the thing that is negated
CONNECTORS = {"and", "or", "nor", "but", "with", "while", "who", "that", "which", "is", "are", "has", "have"}
FILLERS = (
    "a",
    "an",
    "any",
    "the",
    "his",
    "her",
    "with",
    "in",
    "wearing",
    "wear",
    "carrying",
    "carry",
    "having",
    "have",
)
NOBODY = "a person"  # what is left of "no hat"
PROBE_WEIGHT = 0.25  # of the probe's vector, taken off the sentence's (measured: docs/decisions/0003-queries.md)


class Negated(NamedTuple):
    """Something that the person must not have."""

    text: str  # as in the sentence, without its article: "red bag"
    probe: str  # a sentence that says the opposite: "a person with a red bag"


class Reading(NamedTuple):
    """A query, taken apart."""

    kept: str  # the sentence without its negated parts; the sentence itself if it has none
    negated: tuple[Negated, ...]


class _Cut(NamedTuple):
    spans: list[Span]  # characters to cut out
    negated: list[Negated]


def pushed(vector: np.ndarray, probes: Sequence[np.ndarray]) -> np.ndarray:
    """The vector (E,) of what is kept of a sentence, away from those of the probes; of length 1."""
    if not probes:
        return vector
    away = vector - PROBE_WEIGHT * np.sum(probes, axis=0)
    return (away / max(float(np.linalg.norm(away)), 1e-12)).astype(np.float32)


def read_negations(sentence: str) -> Reading:
    """Take the negated parts out of a sentence. Only a sentence with a word such as "no" or "without" is parsed."""
    if not TRIGGER.search(sentence):
        return Reading(sentence, ())
    model = installed_parser().model
    cut = _cut_by_rules(sentence) if model is None else _cut_by_spacy(sentence, model)
    if not cut.negated:
        return Reading(sentence, ())
    return Reading(_without(sentence, cut.spans), tuple(dict.fromkeys(cut.negated)))


def _negated(phrase: list[str]) -> Negated:
    words = [word for word in phrase if word.lower() not in DETERMINERS]
    text = [word for word in words if word.lower() not in ("a", "an", "the")]
    return Negated(" ".join(text), f"a person with {' '.join(words)}")


def _without(sentence: str, spans: list[Span]) -> str:
    """The sentence without the spans, and without the words that joined them to the rest."""
    for start, end in sorted(spans, reverse=True):
        sentence = f"{sentence[:start]} , {sentence[end:]}"
    parts = [_trimmed(part.split()) for part in re.split(r"[,;]", sentence)]
    return ", ".join(" ".join(part) for part in parts if part) or NOBODY


def _trimmed(words: list[str]) -> list[str]:
    """Without connecting words at the end, and without those that need something before them at the start."""
    while words and words[-1].lower() in CONNECTORS:
        words = words[:-1]
    while words and words[0].lower() in ("and", "or", "nor", "but"):
        words = words[1:]
    return words if any(re.search(r"\w", word) for word in words) else []


# ---- by spaCy ----


def _cut_by_spacy(sentence: str, model: str) -> _Cut:
    with parsing:
        doc = english_pipeline(model)(sentence)
    spans: list[Span] = []
    negated: list[Negated] = []
    for chunk in doc.noun_chunks:
        triggers = _triggers(chunk.root)
        if triggers and chunk.root.pos_ in ("NOUN", "PROPN"):
            negated.append(_negated([token.text for token in chunk]))
            spans += [(token.idx, token.idx + len(token)) for token in [*chunk, *triggers, *_place(chunk)]]
    for adjective in doc:
        noun = _described(adjective)
        if noun is not None:
            negated.append(_negated([adjective.text, noun.text]))
            spans += [(token.idx, token.idx + len(token)) for token in [adjective, *_verb_tokens(adjective.head)]]
    return _Cut(spans, negated)


def _triggers(noun: Any) -> list[Any]:
    """The tokens that negate a noun and those that only lead to it; empty if nothing negates it."""
    own = [child for child in noun.lefts if child.dep_ == "neg" or child.lower_ in ("no", "not", "neither")]
    if own:
        return [*own, noun.head] if noun.dep_ == "pobj" else own
    head = noun.head
    if noun.dep_ == "pobj":
        denied = [child for child in head.children if child.dep_ == "neg"]
        if head.lower_ == "without" or denied:
            return [head, *denied]
        return [head, *_verb_tokens(head.head)] if _is_denied(head.head) else []
    if noun.dep_ in ("dobj", "attr", "oprd") and _is_denied(head):
        return _verb_tokens(head)
    if noun.dep_ == "conj" and head.pos_ in ("NOUN", "PROPN"):
        return _triggers_of_list(noun)
    return []


def _place(chunk: Any) -> list[Any]:
    """What says where the thing would be: "on his head" after "a hat"."""
    after = [child for child in chunk.root.rights if child.dep_ == "prep" and child.i == chunk.end]
    return list(after[0].subtree) if after and after[0].lower_ in ("on", "of", "around", "over") else []


def _triggers_of_list(noun: Any) -> list[Any]:
    """Of "glasses" in "without a hat or glasses"; "no hat and blue jeans" denies only the hat."""
    joints = [child for child in noun.head.children if child.dep_ == "cc"]
    first = _triggers(noun.head)
    widely = any(joint.lower_ in ("or", "nor") for joint in joints) or not any(each.lower_ == "no" for each in first)
    return joints if first and widely else []


def _is_denied(verb: Any) -> bool:
    return verb.pos_ in ("VERB", "AUX") and any(child.dep_ == "neg" for child in verb.children)


def _verb_tokens(verb: Any) -> list[Any]:
    """A denied verb with its "is", "not" and "who"."""
    leading = [child for child in verb.children if child.dep_ in ("neg", "aux", "auxpass")]
    return [verb, *leading, *(child for child in verb.children if child.lower_ in ("who", "that", "which"))]


def _described(adjective: Any) -> Any:
    """The noun of an adjective that is denied: "jacket" for "black" in "a jacket that is not black"; else None."""
    verb = adjective.head
    if adjective.dep_ != "acomp" or adjective.lower_ == "visible" or not _is_denied(verb):
        return None
    subjects = [child for child in verb.children if child.dep_ == "nsubj"]
    if subjects and subjects[0].pos_ == "NOUN":
        return subjects[0]
    return verb.head if verb.dep_ == "relcl" and verb.head.pos_ == "NOUN" else None


# ---- without spaCy ----


def _cut_by_rules(sentence: str) -> _Cut:
    spans: list[Span] = []
    negated: list[Negated] = []
    for start, end, things in _denials(sentence):
        spans.append((start, end))
        negated += things
    return _Cut(spans, negated)


def _denials(sentence: str) -> Iterator[tuple[int, int, list[Negated]]]:
    """Known adjectives and nouns right after a word that negates: first character, last + 1, the things named."""
    words = list(re.finditer(rf"(?:\w|-|{APOSTROPHE})+", sentence))
    tags = "".join(_tag(word.group()) for word in words)
    for match in re.finditer("T[TF]*F?A*N+(?:O[TF]*A*N+)*", tags):
        found = words[match.start() : match.end()]
        things = [
            [word.group() for word in found[slice(*thing.span())]] for thing in re.finditer("A*N+", match.group())
        ]
        yield found[0].start(), found[-1].end(), [_negated(thing) for thing in things]


def _tag(word: str) -> str:
    """T negates, O "or", F a filler, A adjective, N noun, . anything else."""
    word = word.lower()
    if word in ("or", "nor"):
        return "O"
    if TRIGGER.fullmatch(word):
        return "T"
    tag = TAGS.get(word.replace("-", ""), ".")
    return "F" if word in FILLERS else "." if tag == "&" else tag
