"""Captions beside the images that one or several models rank first for them. T captions, I images."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError
from utils.figure_inputs import check_rows, draw_rows
from utils.figure_style import GREEN, GREY, INK, new_figure

CAPTION_INCHES, IMAGE_INCHES, GAP_INCHES, ROW_GAP_INCHES, MARGIN_INCHES = 3.0, 0.78, 0.07, 0.2, 0.15
NAME_INCHES = 0.28  # of the models' names, written upwards
HEADER_INCHES, FOOTER_INCHES = 0.62, 0.32
WORDS_INCHES = 8.0  # title and legend need as much
CHARACTERS_PER_LINE = 42  # of 9 pt text on CAPTION_INCHES
LINE_INCHES = 0.165
LINES_OF_NOTE = 3
PURE_RED = "#C8102E"  # thickness and tick tell it from green as well, so that it may be no colour-blind reader's red
IMAGE_PIXELS = 160  # width of the images in the file


class Retrieval(NamedTuple):
    """One caption with its answers by one model."""

    caption: str
    images: list[Path]  # the first of the ranking
    right: list[bool]  # of each, whether it shows the person described
    first_right: int  # rank of the best right image, from 1; 0 = the gallery has none
    num_right: int
    gallery_size: int


def choose_queries(num_queries: int, text_person_id: np.ndarray, image_person_id: np.ndarray, seed: int) -> list[int]:
    """Draw captions (T,) of different people who are in the gallery, at most num_queries; in ascending order."""
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
    """Captions and first images of some queries.

    Args:
        order: (T, I) gallery rows, best first; those of the queries are enough.
        captions: T; text_person_id (T,); images: I; image_person_id (I,).
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
    """The answers of one model, as `draw_grid` draws them, with grey frames around the wrong images."""
    return draw_grid([[retrieval] for retrieval in retrievals], (), title, wrong="grey")


def draw_grid(
    queries: Sequence[Sequence[Retrieval]], names: Sequence[str], title: str, *, wrong: str = "red"
) -> Figure:
    """A block per caption: its words at the left, beside them a row of images per model, all images of one size.

    Right images have a thick green frame and a tick, others a thin one.

    Args:
        queries: for each caption the answers of every model. names: of the models; none = they are not written.
        wrong: colour of the thin frames, "red" or "grey".
    Raises: UserError naming the image if one cannot be read.
    """
    pictures = {path: read_picture(path) for query in queries for answers in query for path in answers.images}
    page = _lay_out(queries, names, float(np.median([image.height / image.width for image in pictures.values()])))
    figure = new_figure(page.width, page.height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, page.width), ylim=(page.height, 0))  # inches, top left corner first
    axes.axis("off")
    axes.text(MARGIN_INCHES, 0.2, title, fontsize=11, fontweight="bold", va="center")
    for rank, left in enumerate(page.lefts, start=1):
        middle = left + IMAGE_INCHES / 2
        axes.text(middle, HEADER_INCHES - 0.08, str(rank), color=GREY, ha="center", va="bottom")
    for query, top in zip(queries, page.tops, strict=True):
        _write_caption(axes, query[0], top, page.row_inches - GAP_INCHES)
        for row, answers in enumerate(query):
            row_top = top + row * page.row_inches
            _write_note(axes, answers, row_top + page.row_inches - GAP_INCHES, with_count=row == 0)
            if names:
                place = (page.lefts[0] - NAME_INCHES / 2, row_top + page.image_size[1] / 2)
                axes.text(*place, names[row], fontweight="bold", rotation=90, ha="center", va="center")
            for left, path, is_right in zip(page.lefts, answers.images, answers.right, strict=False):
                show_image(axes, pictures[path], (left, row_top), page.image_size, is_right, wrong)
    legend = "thick green frame with tick: the person described."
    legend += f"  thin {wrong} frame: somebody else.  best match first."
    axes.text(MARGIN_INCHES, page.height - FOOTER_INCHES / 2, legend, color=INK, fontsize=8, va="center")
    return figure


class _Page(NamedTuple):
    """Where everything is, in inches from the top left corner."""

    width: float
    height: float
    image_size: tuple[float, float]  # width and height
    row_inches: float  # from one model's row to the next
    tops: list[float]  # of the captions
    lefts: list[float]  # of the columns of images


def _lay_out(queries: Sequence[Sequence[Retrieval]], names: Sequence[str], tall: float) -> _Page:
    """tall: height of the images divided by their width."""
    image_size = (IMAGE_INCHES, IMAGE_INCHES * min(max(tall, 1.0), 3.0))
    row_inches = max(image_size[1], LINE_INCHES * (LINES_OF_NOTE + 3)) + GAP_INCHES
    block_inches = row_inches * len(queries[0]) - GAP_INCHES + ROW_GAP_INCHES
    tops = [HEADER_INCHES + block * block_inches for block in range(len(queries))]
    first_image = MARGIN_INCHES + CAPTION_INCHES + (NAME_INCHES if names else 0)
    columns = max(len(answers.images) for query in queries for answers in query)
    lefts = [first_image + column * (IMAGE_INCHES + GAP_INCHES) for column in range(columns)]
    width = max(WORDS_INCHES, lefts[-1] + IMAGE_INCHES + GAP_INCHES + MARGIN_INCHES)
    return _Page(width, tops[-1] + block_inches + FOOTER_INCHES, image_size, row_inches, tops, lefts)


def _write_caption(axes: Axes, retrieval: Retrieval, top: float, height: float) -> None:
    room = max(1, int(height / LINE_INCHES) - LINES_OF_NOTE)
    caption = " ".join(retrieval.caption.split())
    lines = textwrap.wrap(caption, CHARACTERS_PER_LINE, max_lines=room, placeholder=" …")
    axes.text(MARGIN_INCHES, top, "\n".join(lines), va="top", parse_math=False, linespacing=1.2)


def _write_note(axes: Axes, retrieval: Retrieval, bottom: float, *, with_count: bool) -> None:
    """How good the answers are; with_count: and how good they could be, which is the same for all models."""
    if retrieval.first_right == 0:
        note = "nobody in the gallery is this person"
    else:
        note = f"first right image: rank {retrieval.first_right} of {retrieval.gallery_size}"
        note += f"\nright images in the gallery: {retrieval.num_right}" if with_count else ""
    axes.text(MARGIN_INCHES, bottom, note, va="bottom", fontsize=8, color="#555555", linespacing=1.2)


def show_image(
    axes: Axes, picture: Image.Image, corner: tuple[float, float], size: tuple[float, float], right: bool, wrong: str
) -> None:
    """An image stretched to the common size (width, height), as the encoder's input is, with its frame.

    corner: left and top, in inches; right: thick green frame with a tick, else a thin one, wrong = "red" or "grey".
    """
    (left, top), (width, height) = corner, size
    pixels = picture.resize((IMAGE_PIXELS, round(IMAGE_PIXELS * height / width)), Image.Resampling.BICUBIC)
    axes.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto", interpolation="antialiased")
    thin = {"red": (1.4, PURE_RED), "grey": (0.8, GREY)}
    line_width, colour = (3.5, GREEN) if right else thin[wrong]
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line_width))
    if right:
        badge = {"boxstyle": "circle,pad=0.15", "facecolor": GREEN, "edgecolor": "white", "linewidth": 0.8}
        place = (left + width - 0.12, top + height - 0.12)
        axes.text(*place, "✓", color="white", fontsize=8, fontweight="bold", ha="center", va="center", bbox=badge)


def read_picture(path: Path) -> Image.Image:
    """RGB. Raises: UserError naming the file if it cannot be read."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist; is dataset.root the folder that was evaluated?") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"image {path} cannot be read ({error})") from None
