"""Evaluate a checkpoint: python eval.py --config configs/cuhk_pedes.yaml --checkpoint output/cuhk_pedes/best.pth.

Compare two models that were evaluated with --save-scores: python eval.py --compare A/scores.npz B/scores.npz.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dataset.run_loaders import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from evaluation.comparison import compare_files, comparison_json, comparison_table
from evaluation.grounding.cases import load_cases, some_of
from evaluation.grounding.measures import measure_grounding
from evaluation.grounding.report import save_grounding, terminal_tables
from evaluation.report import NO_PERTURBED, harm_of_reranking, make_report, measures_table
from evaluation.results import default_folder, run_details, save_results
from evaluation.retrieval import ScoringSettings, encode_gallery, score_captions
from evaluation.robustness import measure_perturbed, perturbed_batches
from models.build import build_model
from models.person_search import PersonSearchModel
from models.weights import check_complete, initialise, report_table
from utils.config import load_config
from utils.config_schema import Config
from utils.distributed import Process, shutdown, start
from utils.files import save_json
from utils.log import one_line_errors, set_up_logging
from utils.pretrained import find_weights
from utils.seed import seed_everything

logger = logging.getLogger(__name__)

GROUNDING = "grounding"


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
    cases = load_cases(config, loaders.sets) if GROUNDING in args.measures else []
    model = load_model(config, checkpoint, process, trust=args.trust_checkpoint)

    rerank = (config.eval.rerank_top_k, config.eval.rerank_similarity)
    settings = ScoringSettings(process, config.train.precision, *rerank)
    begin = time.perf_counter()
    gallery = encode_gallery(model, loaders.gallery, settings)
    scores = score_captions(model, gallery, loaders.captions, settings)
    seconds = {**scores.seconds, "total": time.perf_counter() - begin}

    tail, perturbed = config.eval.tail, NO_PERTURBED
    if args.perturb:
        changed = perturbed_batches(loaders.sets, tokenizer, config.dataset.max_words, config.eval.batch_size)
        perturbed = measure_perturbed(model, gallery, changed, settings, tail)
    report = make_report(scores, tail, perturbed)

    if process.is_main:
        folder = args.output or default_folder(config, checkpoint, args.split)
        title = f"{config.dataset.name} {args.split}, {checkpoint}"
        details = run_details(scores, seconds, settings.rerank_top_k, tail, args.split, args.checkpoint)
        save_results(folder, report, scores, loaders.sets, title, details, with_scores=args.save_scores)
        Console().print(measures_table(report, title))
        if warning := harm_of_reranking(report):
            logger.warning(warning)
        Console().print(f"written to {folder}: metrics.json, per_query.csv, table.md, table.tex", highlight=False)
        if cases:
            grounding = measure_grounding(
                model, some_of(cases, args.grounding_captions), loaders.gallery, tokenizer, config, scores
            )
            save_grounding(folder, grounding, title)
            Console().print(*terminal_tables(grounding, title))
            Console().print(f"written to {folder}: grounding.json, grounding.md", highlight=False)
    shutdown()


def load_model(config: Config, checkpoint: Path, process: Process, *, trust: bool) -> PersonSearchModel:
    """The model in evaluation mode, filled from the checkpoint. The main process says what the checkpoint gave."""
    model = build_model(config)
    filled = initialise(model, checkpoint, trust=trust)
    if process.is_main:
        Console(stderr=True).print(report_table(filled, model))
    check_complete(model, filled)
    return model.to(process.device).eval()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="the model's sizes and the data: of its training, or other data")
    parser.add_argument("--checkpoint", metavar="PATH", help="best.pth or last.pth of a run, say")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the results (default: eval-SPLIT beside the checkpoint, eval-SPLIT-DATA for other data)",
    )
    parser.add_argument("--save-scores", action="store_true", help="write scores.npz as well: every pair's scores")
    parser.add_argument(
        "--perturb", action="store_true", help="evaluate with misspelt, shortened and shuffled captions as well"
    )
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=[GROUNDING],
        default=[],
        help="beside retrieval; grounding: pointing, chunk scores, re-ranking, on drawn pedestrians only",
    )
    parser.add_argument(
        "--grounding-captions", type=int, metavar="N", help="point and score chunks in N captions only, evenly spread"
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
    if args.grounding_captions is not None and args.grounding_captions < 1:
        parser.error(f"--grounding-captions must be at least 1, not {args.grounding_captions}")
    return args


def compare(a: Path, b: Path, folder: Path | None) -> None:
    """Print the differences between two models. If a folder is given, write comparison.json into it."""
    differences = compare_files(a, b)
    Console().print(comparison_table(differences, a, b))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / "comparison.json", comparison_json(differences, a, b))


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
