"""What all figures share: fonts, saving, and colours that also differ in lightness (print, colour-blind readers)."""

import logging
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # needs no display; must be chosen before pyplot is imported anywhere

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, GREY, PALE = "#222222", "#8A8A8A", "#E4E4E4"

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,  # text stays text in the PDF
}
PIXELS_PER_INCH = 150
PIXELS_PER_INCH_IN_PRINT = 300  # of the pictures in a PDF
TITLE_CHARACTER_INCHES, TITLE_LINE_INCHES = 0.095, 0.19  # of 11 pt bold text

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it logs every table of a PDF's fonts


def new_figure(width_inches: float, height_inches: float, **options: Any) -> Figure:
    """An empty figure in the common style; options as for pyplot.figure. Close it with plt.close when done."""
    plt.rcdefaults()
    plt.rcParams.update(_STYLE)
    return plt.figure(figsize=(width_inches, height_inches), **options)


def new_page(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    """An empty figure with one invisible pair of axes over all of it, in inches from the top left corner."""
    figure = new_figure(width_inches, height_inches)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width_inches), ylim=(height_inches, 0))
    axes.axis("off")
    return figure, axes


def wrap_title(title: str, width_inches: float) -> list[str]:
    """Lines of a bold title in 11 pt."""
    return textwrap.wrap(title, max(1, int(width_inches / TITLE_CHARACTER_INCHES)))


def save(figure: Figure, path: Path, formats: tuple[str, ...] = ("png", "pdf")) -> list[Path]:
    """Write the figure once per format, with the format as the file's suffix, close it, and return the files.

    If path already ends in one of the formats, that suffix is replaced.
    Raises: OSError if a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = path.with_suffix("") if path.suffix[1:] in formats else path  # ".5" of "lr_0.5" is no suffix
    files = [bare.with_name(f"{bare.name}.{suffix}") for suffix in formats]
    for file in files:
        # without a date, equal figures give equal files
        in_print = file.suffix == ".pdf"
        metadata = {"CreationDate": None} if in_print else {}
        dpi = PIXELS_PER_INCH_IN_PRINT if in_print else PIXELS_PER_INCH
        figure.savefig(file, dpi=dpi, facecolor="white", metadata=metadata)
    plt.close(figure)
    return files
