"""Evaluate a checkpoint: python eval.py --config configs/cuhk_pedes.yaml --checkpoint output/cuhk_pedes/best.pth.

Compare two models that were evaluated with --save-scores: python eval.py --compare A/scores.npz B/scores.npz.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from dataset.loaders import EvalLoaders, build_eval_loaders
from dataset.perturb import PERTURBATIONS, perturbed_set
from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from evaluation.comparison import compare_files, comparison_json, comparison_table
from evaluation.report import Report, make_report, measure_orders, measures_table, save_per_query, save_report
from evaluation.retrieval import RETRIEVAL_TASKS, Scores, encode_gallery, score_captions
from evaluation.score_file import save_scores
from models.build import build_model
from models.weights import check_complete, initialise, report_table
from utils.config import load_config
from utils.config_schema import Config
from utils.distributed import shutdown, start
from utils.files import save_json
from utils.log import one_line_errors, set_up_logging
from utils.pretrained import find_weights
from utils.seed import seed_everything

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Config, loaders, model, scores, measures, files."""
    args = parse_arguments(arguments)
    if args.compare:
        compare(args.compare[0], args.compare[1], args.output)
        return
    config = load_config(args.config, args.set)
    process = start()
    set_up_logging(is_main=process.is_main)
    seed_everything(config.train.seed)
    checkpoint = find_weights(args.checkpoint)
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    loaders = eval_loaders_of(config, tokenizer, process, args.split)
    model = build_model(config, tasks=RETRIEVAL_TASKS)
    filled = initialise(model, checkpoint, trust=args.trust_checkpoint)
    if process.is_main:
        Console(stderr=True).print(report_table(filled, model))
    check_complete(model, filled)
    model.to(process.device).eval()
    scoring: dict[str, Any] = {"process": process, "precision": config.train.precision}
    scoring["rerank_top_k"] = config.eval.rerank_top_k
    begin = time.perf_counter()
    gallery = encode_gallery(model, loaders.gallery, **scoring)
    scores = score_captions(model, gallery, loaders.captions, **scoring)
    seconds = {**scores.seconds, "total": time.perf_counter() - begin}
    report = make_report(scores, config.eval.tail)
    for kind, captions in perturbed_captions(loaders, tokenizer, config) if args.perturb else ():
        logger.info("changed captions: %s", kind.replace("_", " "))
        changed = score_captions(model, gallery, captions, **scoring)
        report.perturbed[kind] = measure_orders(changed, config.eval.tail)[1]
    if process.is_main:
        folder = args.output or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / f"eval-{args.split}"
        title = f"{config.dataset.name} {args.split}, {checkpoint}"
        write(folder, report, scores, loaders, title, details(scores, seconds, args, config), args.save_scores)
        Console().print(measures_table(report, title))
        Console().print(f"written to {folder}: metrics.json, per_query.csv, table.md, table.tex", highlight=False)
    shutdown()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="the configuration that the model was trained with")
    parser.add_argument("--checkpoint", metavar="PATH", help="best.pth or last.pth of a run, say")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument(
        "--output", type=Path, help="folder for the results (default: eval-SPLIT beside the checkpoint)"
    )
    parser.add_argument("--save-scores", action="store_true", help="write scores.npz as well: every pair's scores")
    parser.add_argument(
        "--perturb", action="store_true", help="evaluate with misspelt, shortened and shuffled captions as well"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="only compare two scores.npz: differences and p values",
    )
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle the file even if that runs code")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    args = parser.parse_args(arguments)
    if not args.compare and (args.config is None or args.checkpoint is None):
        parser.error("--config and --checkpoint are needed (or --compare with two scores.npz)")
    return args


def compare(a: Path, b: Path, folder: Path | None) -> None:
    """Print the differences of two models; with a folder, write comparison.json there too."""
    differences = compare_files(a, b)
    Console().print(comparison_table(differences, a, b))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / "comparison.json", comparison_json(differences, a, b))


def perturbed_captions(
    loaders: EvalLoaders, tokenizer: BertTokenizer, config: Config
) -> Iterator[tuple[str, DataLoader]]:
    """The captions changed in every way that dataset.perturb knows."""
    gallery, captions = loaders.gallery.dataset, loaders.captions.dataset
    for kind in PERTURBATIONS:
        changed = perturbed_set(captions, kind, tokenizer, config.dataset.max_words)
        yield kind, build_eval_loaders(gallery, changed, batch_size=config.eval.batch_size, workers=0).captions


def details(scores: Scores, seconds: dict[str, float], args: argparse.Namespace, config: Config) -> dict[str, Any]:
    """What metrics.json says beside the measures."""
    return {
        "num_images": len(scores.image_person_id),
        "num_captions": len(scores.text_person_id),
        "num_people": len(scores.text_person_id.unique()),
        "rerank_top_k": config.eval.rerank_top_k,
        "tail": config.eval.tail,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "split": args.split,
        "checkpoint": str(args.checkpoint),
    }


def write(
    folder: Path,
    report: Report,
    scores: Scores,
    loaders: EvalLoaders,
    title: str,
    details: dict[str, Any],
    with_scores: bool,
) -> None:
    """metrics.json, table.md, table.tex, per_query.csv and, where asked for, scores.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, captions = loaders.gallery.dataset.paths, loaders.captions.dataset.texts
    save_report(folder, report, title, details)
    save_per_query(folder / "per_query.csv", report.queries, scores.text_person_id.tolist(), captions, paths)
    if with_scores:
        logger.info("writing the scores of every pair, %d x %d, compressed", *scores.similarity.shape)
        save_scores(folder / "scores.npz", scores, paths, captions)


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
