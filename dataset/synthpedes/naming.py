"""Which words of a caption name which attribute and which part of a person.

While a caption is put together, words that name something stand between two marks. Marks are characters of Unicode's
private use area, which cleaning (`dataset.captions`) leaves alone: so they also tell where the words end up.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_KINDS = (  # attribute, part of `parts.PARTS`; "" = a noun that is the same for every value, such as "hair"
    ("hair", "hair"), ("hair", "head"), ("hair_colour", "hair"), ("", "hair"), ("beard", "beard"), ("hat", "hat"),
    ("hat_colour", "hat"), ("glasses", "glasses"), ("upper", "upper"), ("upper_colour", "upper"), ("pattern", "upper"),
    ("pattern_colour", "upper"), ("pattern_colour", "logo"), ("", "logo"), ("sleeves", "upper"), ("sleeves", "inner"),
    ("inner_colour", "inner"), ("", "inner"), ("scarf_colour", "scarf"), ("", "scarf"), ("lower", "lower"),
    ("lower_colour", "lower"), ("shoes", "shoes"), ("shoe_colour", "shoes"), ("bag", "bag"), ("bag_colour", "bag"),
    ("carried", "carried"), ("carried_colour", "carried"),
)  # fmt: skip
_END = "\ue000"
_STARTS = {kind: chr(ord(_END) + number) for number, kind in enumerate(_KINDS, 1)}
_KIND_OF = {start: kind for kind, start in _STARTS.items()}
_MARK = re.compile(f"[{_END}{''.join(_KIND_OF)}]")


class Naming(NamedTuple):
    """Words of a text that name something."""

    attribute: str  # field of Person; "" = a noun that is the same for every value
    part: str  # of `parts.PARTS`
    start: int  # first character
    end: int  # last character + 1


class Caption(NamedTuple):
    text: str
    names: list[Naming]  # in the order of the text


def named(words: str, attribute: str, part: str) -> str:
    """Mark words of a caption. Raises: KeyError if captions name no such attribute of this part."""
    return f"{_STARTS[attribute, part]}{words}{_END}"


def without_marks(text: str) -> str:
    return _MARK.sub("", text)


def read_marks(text: str) -> Caption:
    """Take the marks out of a text. Words whose end was cut off end with the text."""
    pieces, names, length = [], [], 0
    opened: tuple[str, str, int] | None = None
    for piece in re.split(f"({_MARK.pattern})", text):
        if piece in _KIND_OF:
            opened = (*_KIND_OF[piece], length)
        elif piece == _END and opened:
            names.append(Naming(*opened, length))
            opened = None
        elif piece != _END:
            pieces.append(piece)
            length += len(piece)
    if opened and opened[2] < length:
        names.append(Naming(*opened, length))
    return Caption("".join(pieces), names)


def write_marks(text: str, names: Iterable[Naming]) -> str:
    """Put the marks back: the reverse of `read_marks`."""
    pieces, done = [], 0
    for attribute, part, start, end in names:
        pieces += [text[done:start], named(text[start:end], attribute, part)]
        done = end
    return "".join([*pieces, text[done:]])
