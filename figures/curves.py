"""Losses and validation measures of a run, by epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from figures.style import BLUE, INK, ORANGE, new_figure
from utils.errors import UserError

COLUMNS = 4
PANEL_INCHES = (2.2, 1.65)
VALIDATION_INCHES = 2.1
TITLES = {
    "total": "total (weighted sum)",
    "itc": "itc: contrastive",
    "itm": "itm: matching",
    "prd": "prd: replaced caption",
    "mlm": "mlm: masked words",
    "mrtd": "mrtd: replaced words",
    "attribute": "attribute: chunks",
    "mae": "mae: hidden patches",
}


def draw_curves(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw a small panel per loss, and below them R@1 and mAP on the split that the run was evaluated on.

    Args:
        lines: of log.jsonl, one per epoch: epoch (from 0), train/LOSS, and SPLIT/R1 and SPLIT/mAP in percent if the
            epoch was evaluated; null if a value was not finite.
    Raises: UserError if there is no line.
    """
    if not lines:
        raise UserError("the log holds no finished epoch yet: nothing to draw")
    losses = [key for key in TITLES if f"train/{key}" in lines[-1]]
    splits = sorted({key.partition("/")[0] for line in lines for key in line if key.endswith("/R1")})
    rows = math.ceil(len(losses) / COLUMNS)
    heights = [PANEL_INCHES[1]] * rows + [VALIDATION_INCHES] * bool(splits)
    figure = new_figure(PANEL_INCHES[0] * COLUMNS, sum(heights) + 0.4, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    epochs = [line["epoch"] + 1 for line in lines]
    for place, key in enumerate(losses):
        axes = figure.add_subplot(grid[place // COLUMNS, place % COLUMNS])
        axes.set_title(TITLES[key])
        _plot(axes, epochs, _values(lines, f"train/{key}"), INK if key == "total" else BLUE)
        if place + COLUMNS < len(losses):  # another panel below it
            axes.set_xlabel("")
    if splits:
        _draw_validation(figure.add_subplot(grid[-1, :]), lines, epochs, splits[0])
    return figure


def _draw_validation(axes: Axes, lines: Sequence[Mapping[str, Any]], epochs: Sequence[int], split: str) -> None:
    axes.set_title(f"retrieval on {split}, percent (the dots mark the best epochs)")
    for key, name, colour, style in (("R1", "R@1", BLUE, "-"), ("mAP", "mAP", ORANGE, "--")):
        values = _values(lines, f"{split}/{key}")
        measured = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if not math.isnan(value)]
        if not measured:
            continue
        best_epoch, best = max(measured, key=lambda point: point[1])
        # only the epochs that were evaluated: with eval.every above 1, the line bridges the gaps
        x, y = zip(*measured, strict=True)
        _plot(axes, x, y, colour, style, label=f"{name}, best {best:.1f} in epoch {best_epoch}")
        axes.plot(best_epoch, best, "o", color=colour, markersize=7, clip_on=False)  # the dot may lie on the border
    axes.set_xlim(epochs[0] - 0.02 * len(epochs), epochs[-1] + 0.02 * len(epochs))
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")


def _plot(
    axes: Axes, epochs: Sequence[int], values: Sequence[float], colour: str, style: str = "-", **options: Any
) -> None:
    marker = "." if len(epochs) < 40 else None  # without it, a run of one epoch would show nothing
    axes.plot(epochs, values, style, color=colour, marker=marker, **options)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _values(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = (line.get(key) for line in lines)
    return [math.nan if value is None else value for value in values]
