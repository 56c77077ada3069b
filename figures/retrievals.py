"""Captions beside the images that one or several models rank first for them. T captions, I images."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, UnidentifiedImageError

from figures.inputs import check_rows, draw_rows
from figures.style import GREEN, GREY, INK, TITLE_LINE_INCHES, new_page, wrap_title
from utils.errors import UserError

# a row of ten images is 8.7 inches wide, so that text of 8 pt is still readable when printed on a page
CAPTION_INCHES, IMAGE_INCHES, GAP_INCHES, ROW_GAP_INCHES, MARGIN_INCHES = 2.3, 0.52, 0.075, 0.2, 0.12
NAME_INCHES = 0.24  # of the models' names, which are rotated
HEADER_INCHES, FOOTER_INCHES = 0.58, 0.32
WORDS_INCHES = 6.5  # width that the legend needs
CHARACTERS_PER_LINE = 33  # of 8 pt text on CAPTION_INCHES
LINE_INCHES = 0.148
MOST_LINES = 12  # of a caption; the rest is cut off
PURE_RED = "#C8102E"  # need not suit colour-blind readers, as thickness and tick also tell it from green
IMAGE_PIXELS = 160  # width of the images in the file


class Retrieval(NamedTuple):
    """One model's answer to one caption."""

    caption: str
    images: list[Path]  # the first ones of the ranking
    right: list[bool]  # whether each of them shows the person described
    first_right: int  # rank of the best right image, from 1; 0 = the gallery has none
    num_right: int
    gallery_size: int


def choose_queries(num_queries: int, text_person_id: np.ndarray, image_person_id: np.ndarray, seed: int) -> list[int]:
    """Draw at most num_queries captions of different people who are in the gallery, in ascending order.

    Args: text_person_id (T,), image_person_id (I,).
    """
    present = np.flatnonzero(np.isin(text_person_id, image_person_id))
    return present[draw_rows(num_queries, text_person_id[present], seed)].tolist()


def collect(
    queries: Sequence[int],
    order: np.ndarray | Mapping[int, np.ndarray],
    captions: Sequence[str],
    text_person_id: np.ndarray,
    image_person_id: np.ndarray,
    images: Sequence[Path],
    *,
    num_images: int,
) -> list[Retrieval]:
    """The first num_images images of some captions.

    Args:
        queries: rows of the captions.
        order: (T, I) gallery rows, best first; a mapping needs those of the queries alone.
        captions: T of them; text_person_id (T,), image_person_id (I,).
        images: I of them.
    Raises: UserError if a query is not one of the T captions.
    """
    check_rows(queries, len(captions))
    retrievals = []
    for query in queries:
        right = image_person_id[order[query]] == text_person_id[query]  # (I,), by rank
        first_right = int(right.argmax()) + 1 if right.any() else 0
        first = [images[row] for row in order[query][:num_images]]
        counts = (first_right, int(right.sum()), len(right))
        retrievals.append(Retrieval(captions[query], first, right[:num_images].tolist(), *counts))
    return retrievals


def draw_retrievals(retrievals: Sequence[Retrieval], title: str) -> Figure:
    """Draw the answers of one model as `draw_grid` does, with grey frames around wrong images."""
    return draw_grid([[retrieval] for retrieval in retrievals], (), title, wrong="grey")


def draw_grid(
    queries: Sequence[Sequence[Retrieval]], names: Sequence[str], title: str, *, wrong: str = "red"
) -> Figure:
    """Draw a block per caption: its words on the left, and beside them a row of images per model, all of one size.

    Right images have a thick green frame and a tick, the others a thin frame.

    Args:
        queries: for each caption the answers of every model.
        names: of the models; empty = they are not written.
        wrong: colour of the thin frames, "red" or "grey".
    Raises: UserError that names the image if one cannot be read.
    """
    pictures = {path: read_picture(path) for query in queries for answers in query for path in answers.images}
    tall = float(np.median([image.height / image.width for image in pictures.values()]))
    page = _lay_out(queries, names, title, tall)
    figure, axes = new_page(page.width, page.height)
    axes.text(MARGIN_INCHES, 0.1, "\n".join(page.title), fontsize=11, fontweight="bold", va="top")
    for rank, left in enumerate(page.lefts, start=1):
        middle = left + IMAGE_INCHES / 2
        axes.text(middle, page.blocks[0].top - 0.08, str(rank), color=GREY, fontsize=8, ha="center", va="bottom")
    small: dict[str, Any] = {"fontsize": 8, "linespacing": 1.2}
    for query, block in zip(queries, page.blocks, strict=True):
        axes.text(MARGIN_INCHES, block.top, "\n".join(block.caption), va="top", parse_math=False, **small)
        axes.text(MARGIN_INCHES, block.bottom, "\n".join(block.note), va="bottom", color="#555555", **small)
        for row, answers in enumerate(query):
            row_top = block.top + row * (page.image_size[1] + GAP_INCHES)
            if names:
                place = (page.lefts[0] - NAME_INCHES / 2, row_top + page.image_size[1] / 2)
                axes.text(*place, names[row], fontweight="bold", rotation=90, ha="center", va="center")
            lefts = page.lefts[: len(answers.images)]
            for left, path, is_right in zip(lefts, answers.images, answers.right, strict=True):
                show_image(axes, pictures[path], (left, row_top), page.image_size, is_right, wrong)
    legend = "thick green frame with tick: the person described."
    legend += f"  thin {wrong} frame: somebody else.  best match first."
    axes.text(MARGIN_INCHES, page.height - FOOTER_INCHES / 2, legend, color=INK, fontsize=8, va="center")
    return figure


class _Block(NamedTuple):
    """A caption with its note, in inches from the upper edge."""

    top: float
    bottom: float
    caption: list[str]  # lines
    note: list[str]


class _Page(NamedTuple):
    """Where everything is, in inches from the top left corner."""

    width: float
    height: float
    title: list[str]  # lines
    image_size: tuple[float, float]  # width and height
    blocks: list[_Block]
    lefts: list[float]  # of the columns of images


def _lay_out(queries: Sequence[Sequence[Retrieval]], names: Sequence[str], title: str, tall: float) -> _Page:
    """tall: height of the images divided by their width."""
    image_size = (IMAGE_INCHES, IMAGE_INCHES * min(max(tall, 1.0), 3.0))
    first_image = MARGIN_INCHES + CAPTION_INCHES + (NAME_INCHES if names else 0)
    columns = max(len(answers.images) for query in queries for answers in query)
    lefts = [first_image + column * (IMAGE_INCHES + GAP_INCHES) for column in range(columns)]
    width = max(WORDS_INCHES, lefts[-1] + IMAGE_INCHES + GAP_INCHES + MARGIN_INCHES)
    title_lines = wrap_title(title, width - 2 * MARGIN_INCHES)
    top, blocks = HEADER_INCHES + TITLE_LINE_INCHES * (len(title_lines) - 1), []
    for query in queries:
        caption = " ".join(query[0].caption.split())
        lines = textwrap.wrap(caption, CHARACTERS_PER_LINE, max_lines=MOST_LINES, placeholder=" …")
        note = _note(query, names)
        words = LINE_INCHES * (len(lines) + 0.5 + len(note))
        bottom = top + max(len(query) * (image_size[1] + GAP_INCHES) - GAP_INCHES, words)
        blocks.append(_Block(top, bottom, lines, note))
        top = bottom + ROW_GAP_INCHES
    return _Page(width, top + FOOTER_INCHES, title_lines, image_size, blocks, lefts)


def _note(query: Sequence[Retrieval], names: Sequence[str]) -> list[str]:
    """Lines that say how good the answers are, and how many right images there are for all models to find."""
    if query[0].first_right == 0:
        return ["nobody in the gallery is this person"]
    named = zip(query, names or [""] * len(query), strict=True)
    ranks = ", ".join(f"{one.first_right} ({name})" if name else f"{one.first_right}" for one, name in named)
    first = f"first right image: rank {ranks} of {query[0].gallery_size}"
    return [*textwrap.wrap(first, CHARACTERS_PER_LINE), f"right images in the gallery: {query[0].num_right}"]


def show_image(
    axes: Axes, picture: Image.Image, corner: tuple[float, float], size: tuple[float, float], right: bool, wrong: str
) -> None:
    """Draw an image with its frame, stretched to the common size as the encoder's input is.

    Args:
        corner: left and top, in inches.
        size: width and height, in inches.
        right: draws a thick green frame with a tick, otherwise a thin one.
        wrong: colour of the thin frame, "red" or "grey".
    """
    (left, top), (width, height) = corner, size
    pixels = picture.resize((IMAGE_PIXELS, round(IMAGE_PIXELS * height / width)), Image.Resampling.BICUBIC)
    axes.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto", interpolation="antialiased")
    thin = {"red": (1.4, PURE_RED), "grey": (0.8, GREY)}
    line_width, colour = (3.0, GREEN) if right else thin[wrong]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line_width))
    if right:
        badge = {"boxstyle": "circle,pad=0.15", "facecolor": GREEN, "edgecolor": "white", "linewidth": 0.8}
        place = (left + width - 0.12, top + height - 0.12)
        axes.text(*place, "✓", color="white", fontsize=8, fontweight="bold", ha="center", va="center", bbox=badge)


def read_picture(path: Path) -> Image.Image:
    """The picture in RGB. Raises: UserError that names the file if it cannot be read."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist; is dataset.root the folder that was evaluated?") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"image {path} cannot be read ({error})") from None
