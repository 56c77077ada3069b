"""Evaluate a checkpoint: python eval.py --config configs/cuhk_pedes.yaml --checkpoint output/cuhk_pedes/best.pth."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dataset.build import eval_loaders_of
from dataset.tokenizer import load_tokenizer
from models.build import build_model
from models.weights import check_complete, initialise, report_table
from utils.config import load_config
from utils.distributed import shutdown, start
from utils.log import one_line_errors, set_up_logging
from utils.metrics import Metrics, chance_level
from utils.pretrained import find_weights
from utils.retrieval import Scores, measure, measure_similarity, score_gallery
from utils.run_folder import replacing, save_json
from utils.seed import seed_everything

logger = logging.getLogger(__name__)
NEEDED_FOR_RETRIEVAL = frozenset({"itc", "itm"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Config, loaders, model, scores, measures, files."""
    args = parse_arguments(arguments)
    config = load_config(args.config, args.set)
    process = start()
    set_up_logging(is_main=process.is_main)
    seed_everything(config.train.seed)
    checkpoint = find_weights(args.checkpoint)
    folder = args.output or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / f"eval-{args.split}"
    loaders = eval_loaders_of(config, load_tokenizer(config.model.text_encoder.name), process, args.split)
    model = build_model(config, tasks=NEEDED_FOR_RETRIEVAL)
    report = initialise(model, checkpoint, trust=args.trust_checkpoint)
    if process.is_main:
        Console(stderr=True).print(report_table(report, model))
    check_complete(model, report)
    begin = time.perf_counter()
    scores = score_gallery(
        model.to(process.device),
        loaders.gallery,
        loaders.captions,
        process=process,
        precision=config.train.precision,
        rerank_top_k=config.eval.rerank_top_k,
    )
    seconds = {**scores.seconds, "total": time.perf_counter() - begin}
    rows = {
        "re-ranked": measure(scores, config.eval.tail),
        "similarity": measure_similarity(scores),
        "chance": chance_level(scores.text_person_id, scores.image_person_id),
    }
    if process.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        save_json(folder / "metrics.json", as_json(rows, scores, seconds, args, config.eval.rerank_top_k))
        if args.save_scores:
            save_scores(folder / "scores.npz", scores, loaders.gallery.dataset.dataset.paths)
        Console().print(as_table(rows, f"{config.dataset.name} {args.split}, {checkpoint}"))
        Console().print(f"written: {folder / 'metrics.json'}", highlight=False)
    shutdown()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the configuration that the model was trained with")
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="best.pth or last.pth of a run, say")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument(
        "--output", type=Path, help="folder for metrics.json (default: eval-SPLIT beside the checkpoint)"
    )
    parser.add_argument("--save-scores", action="store_true", help="write scores.npz as well: every pair's scores")
    parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle the file even if that runs code")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    return parser.parse_args(arguments)


def as_json(rows: dict[str, Metrics], scores: Scores, seconds: dict[str, float], args, top_k: int) -> dict:
    """The re-ranked measures at the top, then the other orders, counts and times."""
    return {
        **rows["re-ranked"]._asdict(),
        "similarity": rows["similarity"]._asdict(),
        "chance": rows["chance"]._asdict(),
        "num_images": len(scores.image_person_id),
        "num_captions": len(scores.text_person_id),
        "num_people": len(scores.text_person_id.unique()),
        "rerank_top_k": top_k,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "split": args.split,
        "checkpoint": str(args.checkpoint),
    }


def save_scores(path: Path, scores: Scores, image_paths: list[str]) -> None:
    """similarity and scores (texts x images, float32, -inf where not re-ranked), person ids, image paths."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            similarity=scores.similarity.numpy(),
            scores=scores.matching.numpy(),
            text_person_ids=scores.text_person_id.numpy(),
            image_person_ids=scores.image_person_id.numpy(),
            image_paths=np.array(image_paths),
        )


def as_table(rows: dict[str, Metrics], title: str) -> Table:
    table = Table("in percent", "R@1", "R@5", "R@10", "mAP", "mINP", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, metrics in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in metrics[:5]))
    return table


if __name__ == "__main__":
    sys.exit(one_line_errors(main)())
