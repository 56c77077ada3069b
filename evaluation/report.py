"""What an evaluation reports, and how: terminal, metrics.json, Markdown and LaTeX rows, one line per query.

Measures are in percent. Intervals are 95 % bootstrap intervals over the queries (evaluation/bootstrap.py).
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluation.bootstrap import LEVEL, RESAMPLES, SEED, confidence_intervals
from evaluation.metrics import (
    HEADERS,
    MEASURES,
    Metrics,
    QueryMeasures,
    chance_level,
    mean_metrics,
    measure_queries,
    percentages,
)
from evaluation.retrieval import Scores
from utils.files import replacing, save_json

LATEX_SPECIAL = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})

Tail = Literal["similarity", "constant"]


class Row(NamedTuple):
    """One ranking's measures."""

    metrics: Metrics
    intervals: list[tuple[float, float]]  # of R1 R5 R10 mAP mINP


class Report(NamedTuple):
    text_to_image: dict[str, Row]  # by order: re-ranked, similarity
    image_to_text: dict[str, Row]
    chance: Metrics  # text to image, random orders
    queries: QueryMeasures  # of each caption, re-ranked
    perturbed: dict[str, dict[str, Row]]  # text to image by kind of dataset.perturb, by order; may be empty


def make_report(scores: Scores, tail: Tail) -> Report:
    """Measures in both directions; `perturbed` is empty, to be filled from measure_orders of the changed captions.

    Raises: UserError if no caption has an image of its person.
    """
    exchanged = Scores(
        scores.similarity.T, scores.matching.T, scores.image_person_id, scores.text_person_id, scores.seconds
    )
    queries, text_to_image = measure_orders(scores, tail)
    _, image_to_text = measure_orders(exchanged, tail)
    chance = chance_level(scores.text_person_id, scores.image_person_id)
    return Report(text_to_image, image_to_text, chance, queries, {})


def measure_orders(scores: Scores, tail: Tail) -> tuple[QueryMeasures, dict[str, Row]]:
    """Measures of each query in the re-ranked order, and the rows of both orders."""
    people = (scores.text_person_id, scores.image_person_id)
    re_ranked = measure_queries(scores.similarity, scores.matching, *people, tail)
    similarity = measure_queries(scores.similarity, None, *people)
    return re_ranked, {"re-ranked": _row(re_ranked), "similarity": _row(similarity)}


def _row(queries: QueryMeasures) -> Row:
    return Row(mean_metrics(queries), confidence_intervals(percentages(queries).numpy()))


def report_json(report: Report) -> dict[str, Any]:
    """The re-ranked measures of text to image at the top, everything else below names."""
    return {
        **_both_orders(report.text_to_image),
        "chance": report.chance._asdict(),
        "image_to_text": _both_orders(report.image_to_text),
        **(
            {"perturbed": {kind: _both_orders(rows) for kind, rows in report.perturbed.items()}}
            if report.perturbed
            else {}
        ),
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL},
    }


def _both_orders(rows: dict[str, Row]) -> dict[str, Any]:
    return {**_entry(rows["re-ranked"]), "similarity": _entry(rows["similarity"])}


def _entry(row: Row) -> dict[str, Any]:
    intervals = {measure: list(ends) for measure, ends in zip(MEASURES, row.intervals, strict=True)}
    return {**row.metrics._asdict(), "intervals": intervals}


def measures_table(report: Report, title: str) -> Table:
    """For the terminal: each measure above its interval."""
    table = Table("percent", *HEADERS, title=title, title_justify="left", title_style="", box=SIMPLE_HEAD)
    for column in table.columns:
        column.justify, column.no_wrap = "right" if column.header in HEADERS else "left", True
    for heading, rows in _sections(report):
        table.add_section()
        table.add_row(f"[bold]{heading}[/]")
        for name, row in rows.items():
            table.add_row(f"  {name}", *(_cell(*place) for place in zip(row.metrics, row.intervals, strict=False)))
        if rows is report.text_to_image:
            table.add_row("  chance", *(f"{value:.2f}" for value in report.chance[:5]))
    note = "; changed captions: text to image, re-ranked" if report.perturbed else ""
    table.caption = f"below each measure: {LEVEL:.0%} interval over the queries{note}"
    table.caption_justify = "left"
    return table


def _cell(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.2f}\n[dim]{ends[0]:.1f}-{ends[1]:.1f}[/]"


def _sections(report: Report) -> Iterator[tuple[str, dict[str, Row]]]:
    yield "text to image", report.text_to_image
    yield "image to text", report.image_to_text
    if report.perturbed:
        changed = {kind.replace("_", " "): rows["re-ranked"] for kind, rows in report.perturbed.items()}
        yield "changed captions", {"as they are": report.text_to_image["re-ranked"], **changed}


def markdown_table(report: Report, title: str) -> str:
    """The same with a line per ranking, intervals in brackets."""
    lines = [f"| {title.replace('|', '/')} | {' | '.join(HEADERS)} |", "|---" * 6 + "|"]
    for heading, rows in _sections(report):
        for name, row in rows.items():
            cells = (
                f"{value:.2f} ({low:.1f} to {high:.1f})"
                for value, (low, high) in zip(row.metrics, row.intervals, strict=False)
            )
            lines.append(f"| {heading}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def latex_rows(report: Report, title: str) -> str:
    """Rows of a table of six columns, a comment with the headers before them; without intervals."""
    lines = [f"% {title}", f"% & {' & '.join(HEADERS)} \\\\"]
    for heading, rows in _sections(report):
        for name, row in rows.items():
            cells = " & ".join(f"{value:.2f}" for value in row.metrics[:5])
            lines.append(f"{f'{heading}, {name}'.translate(LATEX_SPECIAL)} & {cells} \\\\")
    return "\n".join(lines) + "\n"


def save_per_query(
    path: Path, queries: QueryMeasures, person_ids: Sequence[int], captions: Sequence[str], image_paths: Sequence[str]
) -> None:
    """A line per caption: its place among the captions (from 0), whom it describes, its rank and measures in percent.

    Where the gallery has no right image, first_rank, AP and INP are empty.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("query", "person_id", "caption", "first_rank", "num_right", "AP", "INP", "first_image"))
        columns = [column.tolist() for column in queries]
        for query, (rank, num_right, precision, penalty, first) in enumerate(zip(*columns, strict=True)):
            measured = (rank, num_right, round(100 * precision, 6), round(100 * penalty, 6))
            measures = measured if rank else ("", 0, "", "")
            writer.writerow((query, person_ids[query], captions[query], *measures, image_paths[first]))


def save_report(folder: Path, report: Report, title: str, details: dict[str, Any]) -> None:
    """metrics.json (the report and the details), table.md and table.tex."""
    save_json(folder / "metrics.json", {**report_json(report), **details})
    for name, text in (("table.md", markdown_table(report, title)), ("table.tex", latex_rows(report, title))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
