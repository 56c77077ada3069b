"""One or several models on the same captions: the images that each ranks first (`figures grid`, `figures retrievals`).

The scores come from files of eval.py --save-scores, or from checkpoints that are evaluated now. T captions, I images.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dataset.run_loaders import eval_loaders_of, split_records
from evaluation.comparison import check_same
from evaluation.metrics import measure_queries, rank_gallery
from evaluation.retrieval import score_gallery
from evaluation.score_file import read_scores, score_arrays
from figures.inputs import (
    LoadedModel,
    add_config_arguments,
    add_naming_arguments,
    captions_of,
    check_rows,
    load_configs,
    load_models,
    model_names,
    name_of_data,
    positive,
)
from figures.retrievals import Retrieval, choose_queries, collect, draw_grid, draw_retrievals
from figures.style import save
from utils.config_schema import Config
from utils.distributed import start
from utils.errors import UserError

logger = logging.getLogger(__name__)

SCORES = "what eval.py --save-scores wrote to"
CAPTIONS_OF_ONE, CAPTIONS_OF_SEVERAL = 6, 4  # whose rows of images fit a page


class Ranked(NamedTuple):
    """One model's scores of a split."""

    name: str
    place: Path  # folder that the scores come from
    config: Config
    scores: dict[str, np.ndarray]  # as `evaluation.score_file.score_arrays`

    @property
    def people(self) -> tuple[np.ndarray, np.ndarray]:
        """Person ids of captions (T,) and images (I,)."""
        return self.scores["text_person_ids"], self.scores["image_person_ids"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `figures grid`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--scores", type=Path, action="append", metavar="EVAL_FOLDER", help=f"{SCORES}; once per model")
    what = "instead: best.pth of a run, say, evaluated for the figure; once per model"
    source.add_argument("--checkpoint", action="append", metavar="PATH", help=what)
    add_config_arguments(parser)
    add_naming_arguments(parser)
    parser.add_argument("--split", choices=("test", "val"), default="test", help="with --checkpoint (default: test)")
    _add_query_arguments(parser)
    parser.add_argument(
        "--rule",
        choices=("gain", "loss", "random"),
        default="random",
        help="which captions: where the last model gains most over the first, loses most, or any (default: random)",
    )
    parser.add_argument("--out", type=Path, help="file without suffix (default: grid in the last model's folder)")


def add_retrievals_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `figures retrievals`."""
    parser.add_argument("eval_folder", type=Path, metavar="EVAL_FOLDER", help=SCORES)
    add_config_arguments(parser)
    _add_query_arguments(parser)


def _add_query_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which captions and how many images."""
    number = f"captions (default: {CAPTIONS_OF_ONE}; of several models {CAPTIONS_OF_SEVERAL})"
    parser.add_argument("--num-queries", type=positive, metavar="N", help=number)
    parser.add_argument("--num-images", type=positive, default=10, metavar="N", help="first images (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    what = "these captions instead: rows of the split, from 0, as in per_query.csv"
    parser.add_argument("--queries", type=int, nargs="+", metavar="ROW", help=what)


def make(args: argparse.Namespace) -> list[Path]:
    """`figures grid`: a row per model for each caption."""
    split, ranked = _from_checkpoints(args) if args.checkpoint else _from_files(args, args.scores, args.names)
    for other in ranked[1:]:
        check_same(ranked[0].scores, other.scores, ranked[0].place, other.place)
    number = args.num_queries or (CAPTIONS_OF_ONE if len(ranked) == 1 else CAPTIONS_OF_SEVERAL)
    queries = args.queries or choose(args.rule, ranked, number, args.seed)
    logger.info("captions %s of %s", " ".join(map(str, queries)), split)
    per_model = [_retrievals(model, split, queries, args.num_images) for model in ranked]
    how = "" if args.queries else _reason(args, ranked)
    title = f"{name_of_data(ranked[0].config, split)}: {_share(queries, ranked[0])}{how}"
    names = [model.name for model in ranked]
    figure = draw_grid([list(answers) for answers in zip(*per_model, strict=True)], names, title)
    return save(figure, args.out or ranked[-1].place / "grid")


def make_retrievals(args: argparse.Namespace) -> list[Path]:
    """`figures retrievals`: one model's first images for each caption."""
    split, (ranked,) = _from_files(args, [args.eval_folder], None)
    queries = args.queries or choose("random", [ranked], args.num_queries or CAPTIONS_OF_ONE, args.seed)
    retrievals = _retrievals(ranked, split, queries, args.num_images)
    how = "" if args.queries else f" at random (seed {args.seed})"
    title = f"{name_of_data(ranked.config, split)}: {_share(queries, ranked)}{how}"
    return save(draw_retrievals(retrievals, title), args.eval_folder / "retrievals")


def choose(rule: str, ranked: Sequence[Ranked], number: int, seed: int) -> list[int]:
    """Choose at most `number` captions of different people who are in the gallery.

    Args:
        rule: "random" draws by seed and sorts. "gain" and "loss" take the captions for which the last model's average
            precision is furthest above or below the first model's, the largest change first.
    Raises: UserError if a change is asked for and only one model is given, or if there is no such caption.
    """
    people = ranked[0].people
    if rule == "random":
        return choose_queries(number, *people, seed)
    if len(ranked) < 2:
        raise UserError(f"--rule {rule} compares two models: give another, or --rule random")
    change = (_average_precision(ranked[-1]) - _average_precision(ranked[0])) * (1 if rule == "gain" else -1)
    order = np.argsort(-np.nan_to_num(change, nan=-1.0), kind="stable")  # NaN: no image is right
    order = order[change[order] > 0]
    if len(order) == 0:
        raise UserError(f"--rule {rule}: {ranked[-1].name} has no {rule} against {ranked[0].name} on any caption")
    _, first = np.unique(people[0][order], return_index=True)  # each person's caption with the largest change
    return order[np.sort(first)[:number]].tolist()


def _average_precision(ranked: Ranked) -> np.ndarray:
    similarity, scores, captions, images = _tensors(ranked)
    return measure_queries(similarity, scores, captions, images, ranked.config.eval.tail).average_precision.numpy()


def _tensors(ranked: Ranked) -> tuple[torch.Tensor, ...]:
    names = ("similarity", "scores", "text_person_ids", "image_person_ids")
    return tuple(torch.from_numpy(ranked.scores[name]) for name in names)


def _retrievals(ranked: Ranked, split: str, queries: Sequence[int], num_images: int) -> list[Retrieval]:
    config, (similarity, scores, *_) = ranked.config, _tensors(ranked)
    captions = captions_of(split_records(config, split), ranked.scores, f"{config.dataset.folder}, {split}")
    check_rows(queries, len(captions))
    rows = list(queries)
    order = dict(zip(rows, rank_gallery(similarity[rows], scores[rows], config.eval.tail).numpy(), strict=True))
    images = [config.dataset.folder / "imgs" / path for path in ranked.scores["image_paths"]]
    return collect(queries, order, captions, *ranked.people, images, num_images=num_images)


def _share(queries: Sequence[int], ranked: Ranked) -> str:
    return f"{len(queries)} of {len(ranked.people[0])} captions"


def _reason(args: argparse.Namespace, ranked: Sequence[Ranked]) -> str:
    first, last = ranked[0].name, ranked[-1].name
    return {
        "random": f" at random (seed {args.seed})",
        "gain": f" where {last} is furthest above {first} in average precision",
        "loss": f" where {last} is furthest below {first} in average precision",
    }[args.rule]


def _from_files(args: argparse.Namespace, folders: Sequence[Path], names: list[str] | None) -> tuple[str, list[Ranked]]:
    """The split, and the scores in each folder of eval.py. Raises: UserError if the splits differ."""
    configs = load_configs(args, len(folders))
    splits = [_read_json(folder / "metrics.json")["split"] for folder in folders]
    if len(set(splits)) > 1:
        raise UserError(f"scores of different splits ({', '.join(splits)}): evaluate the models on the same one")
    scores = [read_scores(folder / "scores.npz") for folder in folders]
    named = zip(model_names(names, configs, folders), folders, configs, scores, strict=True)
    return splits[0], [Ranked(*fields) for fields in named]


def _from_checkpoints(args: argparse.Namespace) -> tuple[str, list[Ranked]]:
    """The split, and the scores of each checkpoint, computed as eval.py does."""
    ranked = []
    for path, model in zip(args.checkpoint, load_models(args), strict=True):
        place = Path(path)
        ranked.append(Ranked(model.name, place if place.is_dir() else place.parent, model.config, _score(model, args)))
    return args.split, ranked


def _score(loaded: LoadedModel, args: argparse.Namespace) -> dict[str, np.ndarray]:
    config, process = loaded.config, start()
    loaders = eval_loaders_of(config, loaded.tokenizer, process, args.split)
    scores = score_gallery(
        loaded.model,
        loaders.gallery,
        loaders.captions,
        process=process,
        precision=config.train.precision,
        rerank_top_k=config.eval.rerank_top_k,
        rerank_similarity=config.eval.rerank_similarity,
    )
    return score_arrays(scores, loaders.sets.gallery.paths, loaders.sets.captions.texts)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: broken JSON ({error})") from None
