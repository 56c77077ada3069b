"""What an evaluation reports, as JSON, as a table for the terminal, and as rows of Markdown and LaTeX.

Measures are in percent. Intervals are 95 % bootstrap intervals over the queries (evaluation/bootstrap.py).
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluation.bootstrap import LEVEL, RESAMPLES, SEED, confidence_intervals
from evaluation.metrics import (
    HEADERS,
    MEASURES,
    Metrics,
    QueryMeasures,
    Tail,
    chance_level,
    mean_metrics,
    measure_queries,
    percentages,
)
from evaluation.retrieval import Scores

LATEX_SPECIAL = str.maketrans({character: f"\\{character}" for character in "&%$#_{}"})


class Row(NamedTuple):
    """Measures of one ranking."""

    metrics: Metrics
    intervals: list[tuple[float, float]]  # of R1, R5, R10, mAP, mINP


Orders = dict[str, Row]  # by order of the gallery: re-ranked, similarity
NO_PERTURBED: Mapping[str, Orders] = MappingProxyType({})


class EvaluationReport(NamedTuple):
    text_to_image: Orders
    image_to_text: Orders
    chance: Metrics  # text to image, random orders
    queries: QueryMeasures  # of each caption, re-ranked
    perturbed: Mapping[str, Orders]  # text to image, by kind of `dataset.perturb`; may be empty


def make_report(scores: Scores, tail: Tail, perturbed: Mapping[str, Orders] = NO_PERTURBED) -> EvaluationReport:
    """Measure both directions. perturbed: as `evaluation.robustness.measure_perturbed` returns it.

    Raises: UserError if no caption has an image of its person.
    """
    exchanged = Scores(
        scores.similarity.T, scores.matching.T, scores.image_person_id, scores.text_person_id, scores.seconds
    )
    queries, text_to_image = measure_orders(scores, tail)
    _, image_to_text = measure_orders(exchanged, tail)
    chance = chance_level(scores.text_person_id, scores.image_person_id)
    return EvaluationReport(text_to_image, image_to_text, chance, queries, perturbed)


def measure_orders(scores: Scores, tail: Tail) -> tuple[QueryMeasures, Orders]:
    """Measures of each query in the re-ranked order, and the measures of both orders."""
    people = (scores.text_person_id, scores.image_person_id)
    re_ranked = measure_queries(scores.similarity, scores.matching, *people, tail)
    similarity = measure_queries(scores.similarity, None, *people)
    return re_ranked, {"re-ranked": _row(re_ranked), "similarity": _row(similarity)}


def _row(queries: QueryMeasures) -> Row:
    return Row(mean_metrics(queries), confidence_intervals(percentages(queries).numpy()))


def harm_of_reranking(report: EvaluationReport) -> str | None:
    """A warning where the re-ranked order has a lower R@1 than the similarity, text to image; None where it has not."""
    reranked, similarity = (report.text_to_image[order].metrics.R1 for order in ("re-ranked", "similarity"))
    if reranked >= similarity:
        return None
    return (
        f"re-ranking lowers R@1 from {similarity:.2f} to {reranked:.2f}: the matching head has learned too little; "
        "train it longer, or rank by similarity alone with eval.rerank_top_k=0"
    )


def report_json(report: EvaluationReport) -> dict[str, Any]:
    """The re-ranked measures of text to image stand at the top level, everything else under a name of its own."""
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


def _both_orders(rows: Orders) -> dict[str, Any]:
    return {**_entry(rows["re-ranked"]), "similarity": _entry(rows["similarity"])}


def _entry(row: Row) -> dict[str, Any]:
    intervals = {measure: list(ends) for measure, ends in zip(MEASURES, row.intervals, strict=True)}
    return {**row.metrics._asdict(), "intervals": intervals}


def measures_table(report: EvaluationReport, title: str) -> Table:
    """A table for the terminal, with each measure above its interval."""
    table = Table("percent", *HEADERS, title=title, title_justify="left", title_style="", box=SIMPLE_HEAD)
    for column in table.columns:
        column.justify, column.no_wrap = "right" if column.header in HEADERS else "left", True
    for heading, rows in _sections(report):
        table.add_section()
        table.add_row(f"[bold]{heading}[/]")
        for name, row in rows.items():
            table.add_row(f"  {name}", *(_cell(*place) for place in zip(row.metrics[:5], row.intervals, strict=True)))
        if rows is report.text_to_image:
            table.add_row("  chance", *(f"{value:.2f}" for value in report.chance[:5]))
    note = "; changed captions: text to image, re-ranked" if report.perturbed else ""
    table.caption = f"below each measure: {LEVEL:.0%} interval over the queries{note}"
    table.caption_justify = "left"
    return table


def _cell(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.2f}\n[dim]{ends[0]:.1f}-{ends[1]:.1f}[/]"


def _sections(report: EvaluationReport) -> Iterator[tuple[str, Orders]]:
    yield "text to image", report.text_to_image
    yield "image to text", report.image_to_text
    if report.perturbed:
        changed = {kind.replace("_", " "): rows["re-ranked"] for kind, rows in report.perturbed.items()}
        yield "changed captions", {"as they are": report.text_to_image["re-ranked"], **changed}


def markdown_table(report: EvaluationReport, title: str) -> str:
    """The same as a Markdown table: a line per ranking, intervals in brackets."""
    lines = [f"| {title.replace('|', '/')} | {' | '.join(HEADERS)} |", "|---" * 6 + "|"]
    for heading, rows in _sections(report):
        for name, row in rows.items():
            cells = (
                f"{value:.2f} ({low:.1f} to {high:.1f})"
                for value, (low, high) in zip(row.metrics[:5], row.intervals, strict=True)
            )
            lines.append(f"| {heading}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def latex_rows(report: EvaluationReport, title: str) -> str:
    """The same as rows of a LaTeX table with six columns, after a comment with the headers. No intervals."""
    lines = [f"% {title}", f"% & {' & '.join(HEADERS)} \\\\"]
    for heading, rows in _sections(report):
        for name, row in rows.items():
            cells = " & ".join(f"{value:.2f}" for value in row.metrics[:5])
            lines.append(f"{f'{heading}, {name}'.translate(LATEX_SPECIAL)} & {cells} \\\\")
    return "\n".join(lines) + "\n"
