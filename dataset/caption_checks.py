"""Checks of the captions of a benchmark: sentences under several people, and captions that are no English sentences.

Captions are compared as training sees them, cleaned. `drop_ambiguous_captions` is the only function that changes what
is written; docs/data.md lists the findings.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from dataset.captions import clean_caption
from dataset.checks import Annotation, Finding

SHOWN_CHARACTERS = 80  # of a caption that may hold a whole file
ODD = {  # kind of finding -> what a caption of it holds
    "markup in a caption": re.compile(
        r"<(?!/?person>)/?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&([a-z]+|#\d+);|https?://|www\.\w", re.IGNORECASE
    ),
    "code in a caption": re.compile(r"[{}]|[=!<>]=|=>|->|::|\w\(\)|\w\.\w+\(|\\[nrtux]"),
}
OTHER_SCRIPT = "caption in another script"


class Dropped(NamedTuple):
    """The annotations that stay, and how many of train were left out."""

    annotations: list[Annotation]
    captions: int
    sentences: int  # different ones among these captions
    images: int  # that had no other caption

    def __str__(self) -> str:
        return (
            f"left out of train: captions of several people: {self.captions:,} (different sentences: "
            f"{self.sentences:,}); images without another caption: {self.images:,}"
        )


def check_shared_captions(annotations: list[Annotation], file: str) -> list[Finding]:
    """Find captions that are equal after cleaning but describe different people: one finding per caption."""
    findings = []
    for shared in _shared(annotations).values():
        first = shared[0][0]
        person = first.record.person_id
        second, caption = next((place, text) for place, text in shared if place.record.person_id != person)
        more = len({place.record.person_id for place, _ in shared}) - 2
        message = f"{file}: {second} and record {first.number} (person {person}) share the caption {caption!r}"
        message += f"; {more} more people have it" if more else ""
        findings.append(Finding("same caption under different people", message, is_error=False))
    return findings


def check_odd_captions(annotations: list[Annotation], file: str) -> list[Finding]:
    """Find captions that hold markup, code or another script than the Latin one: one finding per caption and kind."""
    findings = []
    for annotation in annotations:
        for caption in annotation.record.captions:
            for kind, what in _oddities(caption):
                shown = caption if len(caption) <= SHOWN_CHARACTERS else f"{caption[:SHOWN_CHARACTERS]}..."
                message = f"{file}: {annotation}: the caption {shown!r} holds {what!r}"
                findings.append(Finding(kind, message, is_error=False))
    return findings


def drop_ambiguous_captions(annotations: list[Annotation]) -> Dropped:
    """Leave captions that stand under several people of train out of train; val and test stay as they are.

    What other splits hold does not matter: training must not depend on them.
    """
    train = [annotation for annotation in annotations if annotation.split == "train"]
    ambiguous = _shared(train)
    kept, captions, images = [], 0, 0
    for annotation in annotations:
        if annotation.split == "train":
            own = annotation.record.captions
            clear = tuple(caption for caption in own if _words(caption) not in ambiguous)
            captions += len(own) - len(clear)
            if not clear:
                images += 1
                continue
            annotation = annotation._replace(record=annotation.record._replace(captions=clear))
        kept.append(annotation)
    return Dropped(kept, captions, len(ambiguous), images)


def _shared(annotations: Iterable[Annotation]) -> dict[str, list[tuple[Annotation, str]]]:
    """The places of each cleaned caption that several people have: annotations with the caption as annotated."""
    places: dict[str, list[tuple[Annotation, str]]] = defaultdict(list)
    for annotation in annotations:
        for caption in annotation.record.captions:
            places[_words(caption)].append((annotation, caption))
    return {
        words: found
        for words, found in places.items()
        if any(place.record.person_id != found[0][0].record.person_id for place, _ in found)
    }


def _words(caption: str) -> str:
    return clean_caption(caption, max_words=len(caption))


def _oddities(caption: str) -> list[tuple[str, str]]:
    """Kinds of oddities of a caption, each with the first piece of it."""
    found = [(kind, match.group()) for kind, pattern in ODD.items() if (match := pattern.search(caption))]
    if not caption.isascii():
        letter = next((c for c in caption if c.isalpha() and not unicodedata.name(c, "").startswith("LATIN")), None)
        found += [(OTHER_SCRIPT, letter)] if letter else []
    return found
