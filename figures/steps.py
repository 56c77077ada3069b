"""Losses of runs by optimiser step, with the level at which the matching head has learnt nothing."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from figures.curves import TITLES
from figures.style import BLUE, GREEN, GREY, INK, ORANGE, PINK, RED, SKY, new_figure, save
from training.matching_watch import CHANCE
from utils.errors import UserError

logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells of each file that it has read to the end

KEYS = ("itm", "attribute", "mlm", "itc")  # what tells how matching comes about
COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, INK)
SMOOTHED_OVER = 9  # logged values; single batches differ by more than a hundred steps change


class Curve(NamedTuple):
    steps: np.ndarray  # (n,)
    losses: np.ndarray  # (n,), of single batches


def read_steps(folder: Path) -> dict[str, Curve]:
    """The losses that a run wrote every train.log_every_steps steps, by key.

    Raises: UserError if the folder has none.
    """
    events = EventAccumulator(str(folder / "tensorboard")) if (folder / "tensorboard").is_dir() else None
    curves = {}
    for tag in events.Reload().Tags()["scalars"] if events else ():
        if events and tag.startswith("train/"):
            at_steps = {event.step: event.value for event in events.Scalars(tag)}  # a resumed run may repeat some
            curves[tag.removeprefix("train/")] = Curve(np.array(list(at_steps)), np.array(list(at_steps.values())))
    if not curves:
        raise UserError(f"{folder}/tensorboard holds no losses by step: name the folder of a run")
    return curves


def draw_steps(runs: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Draw a panel per loss and a line per run, smoothed, over pale single values. runs: losses by key, by run."""
    figure = new_figure(8.8, 4.4, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, key in zip(panels, KEYS, strict=True):
        axes.set_title(TITLES[key])
        for (name, curves), colour in zip(runs.items(), COLOURS[: len(runs)], strict=True):
            if key in curves:
                steps, losses = curves[key]
                axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
                axes.plot(steps, smoothed(losses), color=colour, label=name)
        if key == "itm":
            axes.axhline(CHANCE, color=GREY, linestyle="--", linewidth=1)
            axes.annotate(
                "chance",
                (1, CHANCE),
                (-2, 2),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                color=GREY,
            )
    for axes in figure.axes[2:]:
        axes.set_xlabel("optimiser step")
    if len(runs) > 1:
        shown: dict[str, Artist] = {}  # a run may lack a loss, and so a line in a panel
        for axes in figure.axes:
            lines, names = axes.get_legend_handles_labels()
            shown |= zip(names, lines, strict=True)
        names = [name for name in runs if name in shown]
        figure.legend(
            [shown[name] for name in names], names, loc="outside lower center", ncols=min(len(names), 4), frameon=False
        )
    return figure


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over the values around each, fewer at the ends."""
    half = SMOOTHED_OVER // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="output folders of train.py")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs; default: their folders")
    parser.add_argument("--out", type=Path, metavar="F", help="files to write, default: RUN_FOLDER/steps.png and .pdf")


def make(args: argparse.Namespace) -> list[Path]:
    names = args.names or [folder.name for folder in args.run_folders]
    if len(names) != len(args.run_folders) or len(names) > len(COLOURS):
        raise UserError(f"give as many --names as run folders, at most {len(COLOURS)}")
    runs = {name: read_steps(folder) for name, folder in zip(names, args.run_folders, strict=True)}
    return save(draw_steps(runs), args.out or args.run_folders[0] / "steps")
