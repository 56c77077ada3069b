"""Captions beside the images that a model ranks first for them. T captions, I images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, UnidentifiedImageError

from utils.errors import UserError
from utils.figure_style import GREEN, GREY, INK, new_figure

CAPTION_INCHES, IMAGE_INCHES, GAP_INCHES, ROW_GAP_INCHES, MARGIN_INCHES = 3.0, 0.78, 0.07, 0.2, 0.15
HEADER_INCHES, FOOTER_INCHES = 0.62, 0.32
WORDS_INCHES = 8.0  # title and legend need as much
CHARACTERS_PER_LINE = 42  # of 9 pt text on CAPTION_INCHES
LINE_INCHES = 0.165
LINES_OF_NOTE = 3
IMAGE_PIXELS = 160  # width of the images in the file


class Retrieval(NamedTuple):
    """One caption with its answers."""

    caption: str
    images: list[Path]  # the first of the ranking
    right: list[bool]  # of each, whether it shows the person described
    first_right: int  # rank of the best right image, from 1; 0 = the gallery has none
    num_right: int
    gallery_size: int


def choose_queries(num_queries: int, text_person_id: np.ndarray, image_person_id: np.ndarray, seed: int) -> list[int]:
    """Draw captions (T,) of different people who are in the gallery, at most num_queries; in ascending order."""
    order = np.random.default_rng(seed).permutation(len(text_person_id))
    order = order[np.isin(text_person_id[order], image_person_id)]
    _, first = np.unique(text_person_id[order], return_index=True)  # the first drawn caption of each person
    return sorted(order[np.sort(first)[:num_queries]].tolist())


def collect(
    queries: Sequence[int],
    order: np.ndarray,
    captions: Sequence[str],
    text_person_id: np.ndarray,
    image_person_id: np.ndarray,
    images: Sequence[Path],
    *,
    num_images: int,
) -> list[Retrieval]:
    """Captions and first images of some queries.

    Args:
        order: (T, I) gallery rows, best first.
        captions: T; text_person_id (T,); images: I; image_person_id (I,).
    Raises: UserError if a query is not one of the T captions.
    """
    retrievals = []
    for query in queries:
        if not 0 <= query < len(captions):
            raise UserError(f"there is no caption {query}: they are numbered 0 to {len(captions) - 1}")
        right = image_person_id[order[query]] == text_person_id[query]  # (I,), by rank
        first_right = int(right.argmax()) + 1 if right.any() else 0
        first = [images[row] for row in order[query, :num_images]]
        counts = (first_right, int(right.sum()), len(right))
        retrievals.append(Retrieval(captions[query], first, right[:num_images].tolist(), *counts))
    return retrievals


def draw_retrievals(retrievals: Sequence[Retrieval], title: str) -> Figure:
    """A row per caption: its words at the left, its first images at the right, all of one size.

    Right images have a thick green frame and a tick, others a thin grey frame.
    Raises: UserError naming the image if one cannot be read.
    """
    pictures = [[_read(path) for path in retrieval.images] for retrieval in retrievals]
    tall = float(np.median([picture.height / picture.width for row in pictures for picture in row]))
    tall = min(max(tall, 1.0), 3.0)
    columns = max(len(row) for row in pictures)
    image_size = (IMAGE_INCHES, IMAGE_INCHES * tall)
    row_inches = max(image_size[1], LINE_INCHES * (LINES_OF_NOTE + 3)) + ROW_GAP_INCHES
    width = max(WORDS_INCHES, 2 * MARGIN_INCHES + CAPTION_INCHES + columns * (IMAGE_INCHES + GAP_INCHES))
    height = HEADER_INCHES + len(retrievals) * row_inches + FOOTER_INCHES
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # inches from the top left corner
    axes.axis("off")
    axes.text(MARGIN_INCHES, 0.2, title, fontsize=11, fontweight="bold", va="center")
    first_image = MARGIN_INCHES + CAPTION_INCHES
    for column in range(columns):
        middle = first_image + column * (IMAGE_INCHES + GAP_INCHES) + IMAGE_INCHES / 2
        axes.text(middle, HEADER_INCHES - 0.08, str(column + 1), color=GREY, ha="center", va="bottom")
    for row, (retrieval, own) in enumerate(zip(retrievals, pictures, strict=True)):
        top = HEADER_INCHES + row * row_inches
        _write_caption(axes, retrieval, top, row_inches - ROW_GAP_INCHES)
        for column, (picture, is_right) in enumerate(zip(own, retrieval.right, strict=True)):
            _show(axes, picture, (first_image + column * (IMAGE_INCHES + GAP_INCHES), top), image_size, is_right)
    legend = "thick green frame with tick: the person described.  thin grey frame: somebody else.  best match first."
    axes.text(MARGIN_INCHES, height - FOOTER_INCHES / 2, legend, color=INK, fontsize=8, va="center")
    return figure


def _write_caption(axes: Axes, retrieval: Retrieval, top: float, height: float) -> None:
    room = max(1, int(height / LINE_INCHES) - LINES_OF_NOTE)
    caption = " ".join(retrieval.caption.split())
    lines = textwrap.wrap(caption, CHARACTERS_PER_LINE, max_lines=room, placeholder=" …")
    axes.text(MARGIN_INCHES, top, "\n".join(lines), va="top", parse_math=False, linespacing=1.2)
    if retrieval.first_right == 0:
        note = "nobody in the gallery is this person"
    else:
        note = f"first right image: rank {retrieval.first_right} of {retrieval.gallery_size}\n"
        note += f"right images in the gallery: {retrieval.num_right}"
    axes.text(MARGIN_INCHES, top + height, note, va="bottom", fontsize=8, color="#555555", linespacing=1.2)


def _show(
    axes: Axes, picture: Image.Image, corner: tuple[float, float], size: tuple[float, float], right: bool
) -> None:
    """An image stretched to the common size (width, height), as the encoder's input is, with its frame."""
    (left, top), (width, height) = corner, size
    pixels = picture.resize((IMAGE_PIXELS, round(IMAGE_PIXELS * height / width)), Image.Resampling.BICUBIC)
    axes.imshow(pixels, extent=(left, left + width, top + height, top), aspect="auto", interpolation="antialiased")
    line_width, colour = (3.5, GREEN) if right else (0.8, GREY)
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=line_width))
    if right:
        badge = {"boxstyle": "circle,pad=0.15", "facecolor": GREEN, "edgecolor": "white", "linewidth": 0.8}
        place = (left + width - 0.12, top + height - 0.12)
        axes.text(*place, "✓", color="white", fontsize=8, fontweight="bold", ha="center", va="center", bbox=badge)


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist; is dataset.root the folder that was evaluated?") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"image {path} cannot be read ({error})") from None
