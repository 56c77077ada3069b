"""Examples of why the task is hard: one person's images that differ, and different people whom one caption fits.

A rule chooses them by the similarity of their embeddings. T captions, I images.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from figures.embedding import EmbeddedSplit, add_single_model_arguments, embed, single_model
from figures.inputs import name_of_data, positive
from figures.retrievals import read_picture, show_image
from figures.style import INK, new_page, save
from utils.errors import UserError

PEOPLE_PER_CAPTION = 6  # including the person described
ROWS_AT_A_TIME = 512  # of the similarity matrix
IMAGE_INCHES, GAP_INCHES, MARGIN_INCHES = 0.76, 0.06, 0.15
STEP_INCHES = IMAGE_INCHES + GAP_INCHES
CAPTION_INCHES, LINE_INCHES, CHARACTERS_PER_LINE = 2.5, 0.155, 32
TITLE_INCHES, HEADING_INCHES, VALUE_INCHES, ROW_GAP_INCHES = 0.45, 0.3, 0.26, 0.12
PAIRS_PER_ROW = 4

Size = tuple[float, float]
Pictures = dict[Path, Image.Image]


class FarPair(NamedTuple):
    """Two images of one person."""

    person_id: int
    images: tuple[Path, Path]
    similarity: float


class ClosePeople(NamedTuple):
    """A caption, and of each of several people the image that is most similar to it, best first."""

    caption: str
    images: list[Path]
    similarities: list[float]
    right: list[bool]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_single_model_arguments(parser, "people beside the checkpoint")
    parser.add_argument(
        "--pairs", type=positive, default=PAIRS_PER_ROW, metavar="N", help="people of part a (default: 4)"
    )
    parser.add_argument("--captions", type=positive, default=2, metavar="N", help="captions of part b (default: 2)")


def make(args: argparse.Namespace) -> list[Path]:
    loaded = single_model(args)
    embedded = embed(loaded, args.split)
    title = f"{loaded.name}, {name_of_data(loaded.config, args.split)}"
    figure = draw_people(furthest_pairs(embedded, args.pairs), closest_people(embedded, args.captions), title)
    return save(figure, args.out or Path(args.checkpoint[0]).parent / "people")


def furthest_pairs(embedded: EmbeddedSplit, number: int) -> list[FarPair]:
    """The two least similar images of a person, for at most `number` people, the least similar pair first.

    Raises: UserError if nobody has two images.
    """
    pairs = []
    for person in np.unique(embedded.image_person_id):
        rows = np.flatnonzero(embedded.image_person_id == person)
        if len(rows) > 1:
            similarity = embedded.image[rows] @ embedded.image[rows].T
            a, b = np.unravel_index(similarity.argmin(), similarity.shape)
            images = (embedded.images[rows[a]], embedded.images[rows[b]])
            pairs.append(FarPair(int(person), images, float(similarity[a, b])))
    if not pairs:
        raise UserError("nobody has two images, so none can be far apart")
    return sorted(pairs, key=lambda pair: pair.similarity)[:number]


def closest_people(embedded: EmbeddedSplit, number: int) -> list[ClosePeople]:
    """Captions that fit several people almost equally well: at most `number`, each of another person, best first.

    A person's similarity is that of the image most similar to the caption. The person described is compared with the
    PEOPLE_PER_CAPTION - 1 most similar others: the smaller the range of their similarities, the better the example.
    Raises: UserError if no caption describes anybody in the gallery, or if the gallery shows a single person.
    """
    by_person = np.argsort(embedded.image_person_id, kind="stable")
    people, first = np.unique(embedded.image_person_id[by_person], return_index=True)
    rows = np.flatnonzero(np.isin(embedded.text_person_id, people))
    if len(rows) == 0 or len(people) < 2:
        raise UserError("similar people need two people in the gallery and a caption of one of them")
    gallery = embedded.image[by_person].T
    own = np.searchsorted(people, embedded.text_person_id[rows])
    span, chosen = np.empty(len(rows)), np.empty((len(rows), min(PEOPLE_PER_CAPTION, len(people))), dtype=np.int64)
    for begin in range(0, len(rows), ROWS_AT_A_TIME):
        part = slice(begin, begin + ROWS_AT_A_TIME)
        best = np.maximum.reduceat(embedded.text[rows[part]] @ gallery, first, axis=1)  # (n, people)
        n = np.arange(len(best))
        ranked = best.copy()
        ranked[n, own[part]] = np.inf  # the person described is always among those compared
        chosen[part] = np.argsort(-ranked, axis=1, kind="stable")[:, : chosen.shape[1]]
        compared = np.take_along_axis(best, chosen[part], axis=1)
        span[part] = compared.max(axis=1) - compared.min(axis=1)
    examples: dict[int, ClosePeople] = {}
    for row in np.argsort(span, kind="stable"):
        if len(examples) == number:
            break
        if own[row] not in examples:
            examples[own[row]] = _example(embedded, rows[row], people[chosen[row]])
    return list(examples.values())


def _example(embedded: EmbeddedSplit, query: int, people: np.ndarray) -> ClosePeople:
    similarity = embedded.image @ embedded.text[query]
    best = [
        max(np.flatnonzero(embedded.image_person_id == person), key=lambda row: similarity[row]) for person in people
    ]
    best.sort(key=lambda row: -similarity[row])
    return ClosePeople(
        embedded.captions[query],
        [embedded.images[row] for row in best],
        [float(similarity[row]) for row in best],
        [bool(embedded.image_person_id[row] == embedded.text_person_id[query]) for row in best],
    )


def draw_people(pairs: Sequence[FarPair], examples: Sequence[ClosePeople], title: str) -> Figure:
    """Draw part a, pairs of images with their cosine, and part b, a row per caption.

    In part b the person described has a green frame.
    Raises: UserError that names the image if one cannot be read.
    """
    shown = [path for pair in pairs for path in pair.images] + [path for own in examples for path in own.images]
    pictures = {path: read_picture(path) for path in shown}
    tall = float(np.median([picture.height / picture.width for picture in pictures.values()]))
    size = (IMAGE_INCHES, IMAGE_INCHES * min(max(tall, 1.0), 3.0))
    row_inches = size[1] + VALUE_INCHES
    first_row = TITLE_INCHES + HEADING_INCHES
    second = first_row + -(-len(pairs) // PAIRS_PER_ROW) * row_inches + ROW_GAP_INCHES  # where part b begins
    height = second + HEADING_INCHES + len(examples) * (row_inches + ROW_GAP_INCHES)
    width = 2 * MARGIN_INCHES + CAPTION_INCHES + PEOPLE_PER_CAPTION * STEP_INCHES - GAP_INCHES
    figure, axes = new_page(width, height)
    axes.text(MARGIN_INCHES, 0.2, title, fontsize=11, fontweight="bold", va="center")
    _heading(axes, TITLE_INCHES, "a", "one person, two images far apart in the embedding")
    between = (width - 2 * MARGIN_INCHES - 2 * STEP_INCHES + GAP_INCHES) / (PAIRS_PER_ROW - 1)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, PAIRS_PER_ROW)
        _draw_pair(axes, pair, pictures, (MARGIN_INCHES + column * between, first_row + row * row_inches), size)
    others = f"the {PEOPLE_PER_CAPTION - 1} others most similar to it"
    _heading(axes, second, "b", f"one caption: the person described (thick green frame) and {others}")
    for number, example in enumerate(examples):
        top = second + HEADING_INCHES + number * (row_inches + ROW_GAP_INCHES)
        _draw_example(axes, example, pictures, top, size)
    return figure


def _draw_pair(axes: Axes, pair: FarPair, pictures: Pictures, corner: Size, size: Size) -> None:
    left, top = corner
    for place, path in enumerate(pair.images):
        show_image(axes, pictures[path], (left + place * STEP_INCHES, top), size, False, "grey")
    _value(axes, left + STEP_INCHES - GAP_INCHES / 2, top + size[1], pair.similarity)


def _draw_example(axes: Axes, example: ClosePeople, pictures: Pictures, top: float, size: Size) -> None:
    room = max(1, int(size[1] / LINE_INCHES))
    lines = textwrap.wrap(example.caption, CHARACTERS_PER_LINE, max_lines=room, placeholder=" …")
    axes.text(MARGIN_INCHES, top, "\n".join(lines), va="top", parse_math=False, linespacing=1.2)
    for place, path in enumerate(example.images):
        left = MARGIN_INCHES + CAPTION_INCHES + place * STEP_INCHES
        show_image(axes, pictures[path], (left, top), size, example.right[place], "grey")
        _value(axes, left + IMAGE_INCHES / 2, top + size[1], example.similarities[place])


def _heading(axes: Axes, top: float, letter: str, text: str) -> None:
    axes.text(MARGIN_INCHES, top + 0.08, letter, fontweight="bold", va="center")
    axes.text(MARGIN_INCHES + 0.18, top + 0.08, text, color=INK, va="center")


def _value(axes: Axes, middle: float, top: float, cosine: float) -> None:
    axes.text(middle, top + 0.06, f"cosine {cosine:.2f}", fontsize=8, color="#555555", ha="center", va="top")
