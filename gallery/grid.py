"""Draw the hits of an answer as one picture, best first."""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from figures.style import GREY, INK, PIXELS_PER_INCH, new_figure
from gallery.answers import Answer, Hit
from gallery.encoding.pictures import UnreadablePicture, decode
from gallery.show import SCORES, confidence
from utils.errors import UserError

COLUMNS = 10
TILE_INCHES, GAP_INCHES, MARGIN_INCHES = 0.95, 0.14, 0.2
LABEL_INCHES, LINE_INCHES, CHARACTERS_PER_INCH = 0.2, 0.2, 13.5
NARROWEST_INCHES = 5.0  # room for the sentence above


def save_grid(answer: Answer, path: Path) -> None:
    """Draw the hits in rows of COLUMNS and save them as a PNG.

    Raises: UserError if there are no hits, or if an image cannot be read; OSError if the file cannot be written.
    """
    if not answer.hits:
        raise UserError("nothing was found, so there is no picture to save")
    pictures = [_read(hit) for hit in answer.hits]
    tall = float(np.clip(np.median([picture.height / picture.width for picture in pictures]), 1, 3))
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    width = max(NARROWEST_INCHES, 2 * MARGIN_INCHES + columns * (TILE_INCHES + GAP_INCHES) - GAP_INCHES)
    note = f"below the images: {SCORES[answer.mode]}; {confidence(answer)}"
    lines = [*textwrap.wrap(answer.query, int((width - 2 * MARGIN_INCHES) * CHARACTERS_PER_INCH)), note]
    top = MARGIN_INCHES + LINE_INCHES * len(lines) + 0.05
    row_inches = TILE_INCHES * tall + LABEL_INCHES + GAP_INCHES
    height = top + rows * row_inches
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # inches from the top left corner
    axes.axis("off")
    for number, line in enumerate(lines):
        style = {"color": GREY, "fontsize": 8} if number == len(lines) - 1 else {"color": INK, "fontweight": "bold"}
        place = MARGIN_INCHES + (number + 0.5) * LINE_INCHES
        axes.text(MARGIN_INCHES, place, line, va="center", parse_math=False, **style)
    for number, (hit, picture) in enumerate(zip(answer.hits, pictures, strict=True)):
        row, column = divmod(number, columns)
        corner = (MARGIN_INCHES + column * (TILE_INCHES + GAP_INCHES), top + row * row_inches)
        _draw(axes, picture, corner, tall, f"{number + 1}:  {hit.score:.3f}")
    figure.savefig(path, dpi=PIXELS_PER_INCH, facecolor="white", format="png")
    plt.close(figure)


def _draw(axes: Axes, picture: Image.Image, corner: tuple[float, float], tall: float, label: str) -> None:
    """Fit a picture into its tile without cropping or distorting it, with its label below."""
    left, top = corner
    height = TILE_INCHES * tall
    scale = min(TILE_INCHES / picture.width, height / picture.height)
    x, y = left + (TILE_INCHES - picture.width * scale) / 2, top + height - picture.height * scale
    extent = (x, x + picture.width * scale, y + picture.height * scale, y)
    axes.imshow(picture, extent=extent, aspect="auto", interpolation="antialiased")
    place = (left + TILE_INCHES / 2, top + height + LABEL_INCHES / 2)
    axes.text(*place, label, ha="center", va="center", fontsize=8)


def _read(hit: Hit) -> Image.Image:
    try:
        return decode(hit.path.read_bytes())
    except (UnreadablePicture, OSError) as error:
        raise UserError(f"{hit.path} cannot be drawn ({error}); index the folder again") from None
