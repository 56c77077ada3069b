"""The files of eval.py: metrics.json, table.md, table.tex, per_query.csv and, if wanted, scores.npz."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset.sets import EvalSets
from evaluation.metrics import QueryMeasures, Tail
from evaluation.report import EvaluationReport, latex_rows, markdown_table, report_json
from evaluation.retrieval import Scores
from evaluation.score_file import save_scores
from utils.config import Config, load_config
from utils.errors import UserError
from utils.files import replacing, save_json

logger = logging.getLogger(__name__)


class RunDetails(NamedTuple):
    """What metrics.json says beside the measures, in its order."""

    num_images: int
    num_captions: int
    num_people: int  # who are described by a caption
    rerank_top_k: int
    tail: Tail
    seconds: Mapping[str, float]  # by stage
    split: str
    checkpoint: str  # as it was given


def default_folder(config: Config, checkpoint: Path, split: str) -> Path:
    """Where results go: eval-SPLIT beside the checkpoint, or in it if it is a folder.

    The data is named behind it if the run there learned from other data, so that neither evaluation replaces the other:
    by its name, or by its folder where that is all that differs. Relative roots start at the working folder.
    """
    run = checkpoint if checkpoint.is_dir() else checkpoint.parent
    folder = run / f"eval-{split}"
    try:
        own = load_config(run / "config.yaml").dataset
    except UserError:  # not a folder of a run
        return folder
    data, root = config.dataset, config.dataset.folder
    if data.name != own.name:
        return folder.with_name(f"{folder.name}-{data.name}")
    if root.resolve() != own.folder.resolve():
        return folder.with_name(f"{folder.name}-{root.resolve().name}")
    return folder


def run_details(
    scores: Scores, seconds: Mapping[str, float], rerank_top_k: int, tail: Tail, split: str, checkpoint: str
) -> RunDetails:
    """Count what was scored; the seconds are rounded to milliseconds."""
    return RunDetails(
        num_images=len(scores.image_person_id),
        num_captions=len(scores.text_person_id),
        num_people=len(scores.text_person_id.unique()),
        rerank_top_k=rerank_top_k,
        tail=tail,
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
        split=split,
        checkpoint=checkpoint,
    )


def save_results(
    folder: Path,
    report: EvaluationReport,
    scores: Scores,
    sets: EvalSets,
    title: str,
    details: RunDetails,
    *,
    with_scores: bool,
) -> None:
    """Write all files into folder, which is made if it does not exist. scores.npz is written only with_scores."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, captions = sets.gallery.paths, sets.captions.texts
    save_report(folder, report, title, details._asdict())
    save_per_query(folder / "per_query.csv", report.queries, scores.text_person_id.tolist(), captions, paths)
    if with_scores:
        logger.info("writing the scores of every pair, %d x %d, compressed", *scores.similarity.shape)
        save_scores(folder / "scores.npz", scores, paths, captions)


def save_report(folder: Path, report: EvaluationReport, title: str, details: Mapping[str, Any]) -> None:
    """Write metrics.json (the report, then the details), table.md and table.tex."""
    save_json(folder / "metrics.json", {**report_json(report), **details})
    for name, text in (("table.md", markdown_table(report, title)), ("table.tex", latex_rows(report, title))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def save_per_query(
    path: Path, queries: QueryMeasures, person_ids: Sequence[int], captions: Sequence[str], image_paths: Sequence[str]
) -> None:
    """Write a line per caption: its number (from 0), the person it describes, its ranks and its measures in percent.

    If the gallery has no right image, first_rank, AP and INP are empty.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("query", "person_id", "caption", "first_rank", "num_right", "AP", "INP", "first_image"))
        columns = [column.tolist() for column in queries]
        for query, (rank, num_right, precision, penalty, first) in enumerate(zip(*columns, strict=True)):
            measured = (rank, num_right, round(100 * precision, 6), round(100 * penalty, 6))
            measures = measured if rank else ("", 0, "", "")
            writer.writerow((query, person_ids[query], captions[query], *measures, image_paths[first]))
