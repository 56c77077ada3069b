"""Figures from the command line: python -m figures NAME ... (--help lists the names).

Each module beside this one reads what its figure needs and draws it; docs/figures.md shows the results. To add a
figure, add a row to FIGURES: one line that says what it is, and two functions of its module.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from figures import attention, embedding, grid, mae, people, steps, words
from figures.architecture import draw_architecture
from figures.curves import draw_curves
from figures.style import save
from utils.errors import UserError
from utils.log import one_line_errors, set_up_logging


class FigureKind(NamedTuple):
    """A kind of figure: what it shows in one line, its arguments, and the function that makes its files."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], list[Path]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one figure and print the paths of its files."""
    parser = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw a figure, as PNG and PDF.",
        epilog="NAME --help tells its arguments, docs/figures.md how to read it",
    )
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, kind in FIGURES.items():
        kind.add_arguments(names.add_parser(name, help=kind.summary, description=kind.summary))
    args = parser.parse_args(arguments)
    set_up_logging()
    for path in FIGURES[args.name].make(args):
        print(path)


def make_curves(args: argparse.Namespace) -> list[Path]:
    return save(draw_curves(read_log(args.run_folder / "log.jsonl"), str(args.run_folder)), args.run_folder / "curves")


def make_architecture(args: argparse.Namespace) -> list[Path]:
    return save(draw_architecture(), args.out)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of log.jsonl.

    Raises: UserError if a line is not JSON, FileNotFoundError if there is no file.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a log of this program ({error})") from None


def _curves_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER", help="output folder of train.py")


def _architecture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="files to write, without suffix")


FIGURES: dict[str, FigureKind] = {
    "curves": FigureKind(
        "losses and validation of a run, to RUN_FOLDER/curves.png and .pdf", _curves_arguments, make_curves
    ),
    "steps": FigureKind(
        "losses of one or several runs by step, and where matching is at chance", steps.add_arguments, steps.make
    ),
    "retrievals": FigureKind(
        "captions beside the images that one model ranks first, to EVAL_FOLDER/retrievals.png and .pdf",
        grid.add_retrievals_arguments,
        grid.make_retrievals,
    ),
    "grid": FigureKind(
        "captions beside the images that several models rank first, a row per model",
        grid.add_arguments,
        grid.make,
    ),
    "attention": FigureKind(
        "where in an image one or several models look for each word of a caption",
        attention.add_arguments,
        attention.make,
    ),
    "mae": FigureKind("images, what the masked pass sees of them, and what is rebuilt", mae.add_arguments, mae.make),
    "words": FigureKind(
        "the most frequent nouns and adjectives of a benchmark's captions",
        words.add_arguments,
        words.make,
    ),
    "people": FigureKind(
        "one person's images that differ most, and different people whom one caption fits",
        people.add_arguments,
        people.make,
    ),
    "embedding": FigureKind(
        "map of the embedding, and similarities of right and wrong pairs",
        embedding.add_arguments,
        embedding.make,
    ),
    "architecture": FigureKind("the picture in README.md", _architecture_arguments, make_architecture),
}

if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
