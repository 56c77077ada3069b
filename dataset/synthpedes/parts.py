"""Which part of a drawn person each pixel shows, and the boxes of these parts.

A person is painted on an RGBA picture whose fourth channel is a number rather than opacity: 0 = the scene, n =
PARTS[n - 1], 255 = painted on top without a Pen. So a part covers what it hides, and is covered by what hides it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dataset.synthpedes.palette import Rgb

PARTS = (
    "person", "head", "hair", "beard", "hat", "glasses", "upper", "logo", "inner", "scarf", "lower", "shoes", "bag",
    "carried",
)  # fmt: skip
SCENE = 0
_MEMBERS = np.eye(len(PARTS) + 2, dtype=np.int64)[:, 1:-1]  # (numbers, parts): which numbers belong to which part
_MEMBERS[1:-1, PARTS.index("person")] = 1
_MEMBERS[1 + PARTS.index("logo"), PARTS.index("upper")] = 1  # it is painted on the garment


class Part(NamedTuple):
    """The visible pixels of a part, in fractions of the picture."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    share: float  # of the picture's area


class Pen:
    """Draws the shapes of an ImageDraw, in 8-bit RGB, and notes in each pixel what it shows."""

    def __init__(self, image: Image.Image, shows: int) -> None:
        self.plain = ImageDraw.Draw(image)  # takes an `ink`
        self.shows = shows

    def ink(self, colour: Rgb) -> tuple[int, int, int, int]:
        return (*colour, self.shows)

    def __getattr__(self, shape: str) -> Callable[..., None]:
        draw = getattr(self.plain, shape)

        def drawn(*args: Any, **options: Any) -> None:
            for name in ("fill", "outline"):
                if options.get(name) is not None:
                    options[name] = self.ink(options[name])
            draw(*args, **options)

        self.__dict__[shape] = drawn  # to be found without __getattr__ from now on
        return drawn

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is drawn meanwhile belongs to this part, one of PARTS."""
        before, self.shows = self.shows, PARTS.index(name) + 1
        yield
        self.shows = before


def visible_parts(image: Image.Image, step: int = 1) -> dict[str, Part]:
    """The parts that an RGBA picture shows, by name. "person" is all of them together; unseen parts are left out.

    step: 2 = look at every second row and column only, and so on.
    """
    shown = np.asarray(image.getchannel("A"))[::step, ::step].clip(max=len(PARTS) + 1)
    rows, columns = _counts(shown) @ _MEMBERS, _counts(shown.T) @ _MEMBERS
    (top, bottom), (left, right) = _ends(rows), _ends(columns)
    boxes = np.stack([left, top, right, bottom], axis=1).round(4).tolist()
    shares = (rows.sum(axis=0) / shown.size).round(5).tolist()
    return {name: Part(tuple(box), share) for name, box, share in zip(PARTS, boxes, shares, strict=True) if share}


def _counts(shown: np.ndarray) -> np.ndarray:
    """How many pixels of each row show each number: (rows, numbers)."""
    numbers = len(PARTS) + 2
    keys = shown + numbers * np.arange(len(shown))[:, None]
    return np.bincount(keys.ravel(), minlength=len(shown) * numbers).reshape(-1, numbers)


def _ends(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where counts (rows, parts) begin and end to be above 0, in fractions of the rows: two arrays (parts,)."""
    found = counts > 0
    return found.argmax(axis=0) / len(counts), 1 - found[::-1].argmax(axis=0) / len(counts)
