"""Figures from the command line: python -m utils.figures NAME ... (--help lists the names).

Reading files is done here; the modules figure_*.py draw what they are given. A new figure is one more row of FIGURES.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataset.build import split_records
from dataset.records import Record
from utils.config import load_config
from utils.errors import UserError
from utils.figure_architecture import draw_architecture
from utils.figure_curves import draw_curves
from utils.figure_retrievals import choose_queries, collect, draw_retrievals
from utils.figure_style import save
from utils.log import one_line_errors, set_up_logging
from utils.metrics import rank_gallery


class Kind(NamedTuple):
    """A kind of figure: what it is in one line, its arguments, and the function that makes the files."""

    summary: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    make: Callable[[argparse.Namespace], list[Path]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one figure and print the names of its files."""
    parser = argparse.ArgumentParser(prog="python -m utils.figures", description="Draw a figure.")
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, kind in FIGURES.items():
        kind.add_arguments(names.add_parser(name, help=kind.summary, description=kind.summary))
    args = parser.parse_args(arguments)
    set_up_logging()
    for path in FIGURES[args.name].make(args):
        print(path)


def make_curves(args: argparse.Namespace) -> list[Path]:
    return save(draw_curves(read_log(args.run_folder / "log.jsonl"), str(args.run_folder)), args.run_folder / "curves")


def make_retrievals(args: argparse.Namespace) -> list[Path]:
    config = load_config(args.config, args.set)
    root = Path(config.dataset.root).expanduser()
    scores = read_scores(args.eval_folder / "scores.npz")
    split = read_json(args.eval_folder / "metrics.json")["split"]
    captions = captions_of(split_records(config, split), scores, f"{config.dataset.root}, {split}")
    people = (scores["text_person_ids"], scores["image_person_ids"])
    queries = args.queries or choose_queries(args.num_queries, *people, args.seed)
    similarity, matching = (torch.from_numpy(scores[key]) for key in ("similarity", "scores"))
    order = rank_gallery(similarity, matching, config.eval.tail).numpy()
    images = [root / "imgs" / path for path in scores["image_paths"]]
    retrievals = collect(queries, order, captions, *people, images, num_images=args.num_images)
    drawn = "drawn pedestrians, " if (root / "synthetic.json").is_file() else ""
    title = f"{drawn}{config.dataset.name} {split}: {len(queries)} of {len(captions)} captions"
    title += "" if args.queries else f" at random (seed {args.seed})"
    return save(draw_retrievals(retrievals, title), args.eval_folder / "retrievals")


def make_architecture(args: argparse.Namespace) -> list[Path]:
    return save(draw_architecture(), args.out, formats=("png",))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of log.jsonl. Raises: UserError for a line that is not JSON, FileNotFoundError without the file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a log of this program ({error})") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: broken JSON ({error})") from None


def read_scores(path: Path) -> dict[str, np.ndarray]:
    """Arrays of the scores.npz that eval.py writes. Raises: UserError if it is missing or not such a file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: run eval.py with --save-scores")
    try:
        with np.load(path) as file:
            return {name: file[name] for name in SCORE_NAMES}
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a file of eval.py --save-scores ({error})") from None


def captions_of(records: Sequence[Record], scores: dict[str, np.ndarray], place: str) -> list[str]:
    """Captions in the order of the rows of scores, as annotated; records whose image was skipped are left out.

    Raises: UserError if the records are not those that were scored.
    """
    scored = set(scores["image_paths"].tolist())
    pairs = [(r.person_id, caption) for r in records if r.file_path in scored for caption in r.captions]
    if not np.array_equal([person_id for person_id, _ in pairs], scores["text_person_ids"]):
        raise UserError(f"{place}: not the captions that were scored; give the configuration that eval.py was given")
    return [caption for _, caption in pairs]


def _curves_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN_FOLDER", help="output folder of train.py")


def _retrievals_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("eval_folder", type=Path, metavar="EVAL_FOLDER", help="of eval.py --save-scores")
    parser.add_argument("--config", type=Path, required=True, help="the configuration that eval.py was given")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    parser.add_argument("--num-queries", type=_positive, default=6, metavar="N", help="captions drawn (default: 6)")
    parser.add_argument("--num-images", type=_positive, default=10, metavar="N", help="first images (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--queries", type=int, nargs="+", metavar="ROW", help="these captions instead, from 0")


def _architecture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="PNG file to write")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


SCORE_NAMES = ("similarity", "scores", "text_person_ids", "image_person_ids", "image_paths")
FIGURES = {
    "curves": Kind("losses and validation of a run, to RUN_FOLDER/curves.png, .pdf", _curves_arguments, make_curves),
    "retrievals": Kind(
        "captions beside the images ranked first, to EVAL_FOLDER/retrievals.png, .pdf",
        _retrievals_arguments,
        make_retrievals,
    ),
    "architecture": Kind("the picture in README.md", _architecture_arguments, make_architecture),
}

if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
