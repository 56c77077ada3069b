"""Compare two models on the same captions and images: differences of their measures, with a paired bootstrap test.

The measures are those of text to image, in the re-ranked order (with similarity behind the re-ranked images) and by
similarity alone.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from evaluation.bootstrap import LEVEL, PAIRED_RESAMPLES, SEED, paired_test
from evaluation.metrics import HEADERS, MEASURES, measure_queries, percentages
from evaluation.score_file import CAPTIONS, read_scores
from utils.errors import UserError


class Difference(NamedTuple):
    """One measure of two models, in percent."""

    measure: str
    a: float
    b: float
    difference: float  # b - a
    low: float  # 95 % interval of the difference
    high: float
    p_value: float


def compare_files(a: Path, b: Path) -> dict[str, list[Difference]]:
    """Differences of the five measures by order ("re-ranked", "similarity"), from two files scores.npz.

    Raises: UserError if a file is missing or broken, or if the two differ in their images or captions.
    """
    scores_a, scores_b = read_scores(a), read_scores(b)
    check_same(scores_a, scores_b, a, b)
    differences = {}
    for order in ("re-ranked", "similarity"):
        values_a, values_b = (_values(scores, order) for scores in (scores_a, scores_b))
        test = paired_test(values_a, values_b)
        columns = (values_a.mean(axis=0), values_b.mean(axis=0), *test)
        rows = zip(MEASURES, *(column.tolist() for column in columns), strict=True)
        differences[order] = [Difference(*row) for row in rows]
    return differences


def check_same(scores_a: dict[str, np.ndarray], scores_b: dict[str, np.ndarray], a: Path, b: Path) -> None:
    """Raises: UserError unless both files have the same images and captions in the same order.

    One model may cut captions earlier than the other, so they are compared only as far as both models read them. Files
    of an earlier version hold no captions; then only the people are compared.
    """
    compared = [
        ("images", scores_a["image_paths"], scores_b["image_paths"]),
        ("people of the images", scores_a["image_person_ids"], scores_b["image_person_ids"]),
        ("captions", scores_a["text_person_ids"], scores_b["text_person_ids"]),
    ]
    if CAPTIONS in scores_a and CAPTIONS in scores_b:
        compared.append(("captions", *_cut_alike(scores_a[CAPTIONS], scores_b[CAPTIONS])))
    for what, of_a, of_b in compared:
        if len(of_a) != len(of_b):
            raise UserError(f"{a} has {len(of_a)} {what}, {b} has {len(of_b)}: compare two models on the same split")
        unlike = np.flatnonzero(of_a != of_b)
        if len(unlike):
            row = unlike[0]
            raise UserError(
                f"{a} and {b} are not of the same {what}: number {row} is {of_a[row]} in one, {of_b[row]} in the other"
            )


def _cut_alike(captions_a: np.ndarray, captions_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut both (T,) to the same number of words: the longest caption of the file whose longest is shorter."""
    words = [[caption.split() for caption in captions.tolist()] for captions in (captions_a, captions_b)]
    most = min(max(map(len, own), default=0) for own in words)
    cut_a, cut_b = (np.array([" ".join(caption[:most]) for caption in own]) for own in words)
    return cut_a, cut_b


def comparison_table(differences: dict[str, list[Difference]], a: Path, b: Path) -> Table:
    """A table for the terminal. Differences whose interval excludes 0 are bold."""
    headers = ("percent", "A", "B", "B - A", f"{LEVEL:.0%} interval", "p")
    table = Table(*headers, title=f"A {a}\nB {b}", title_justify="left", title_style="", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for order, rows in differences.items():
        table.add_section()
        table.add_row(f"[bold]{order}[/]")
        for header, row in zip(HEADERS, rows, strict=True):
            table.add_row(
                f"  {header}",
                f"{row.a:.2f}",
                f"{row.b:.2f}",
                f"{row.difference:+.2f}",
                f"{row.low:+.2f} to {row.high:+.2f}",
                "< 0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}",
                style="bold" if row.low > 0 or row.high < 0 else None,
            )
    return table


def comparison_json(differences: dict[str, list[Difference]], a: Path, b: Path) -> dict[str, Any]:
    """{"a", "b", "bootstrap", ORDER: {MEASURE: {"a", "b", "difference", "low", "high", "p_value"}}}."""
    by_order = {
        order: {row.measure: {key: value for key, value in row._asdict().items() if key != "measure"} for row in rows}
        for order, rows in differences.items()
    }
    bootstrap = {"resamples": PAIRED_RESAMPLES, "seed": SEED, "level": LEVEL}
    return {"a": str(a), "b": str(b), "bootstrap": bootstrap, **by_order}


def _values(scores: dict[str, np.ndarray], order: str) -> np.ndarray:
    """R1, R5, R10, AP and INP in percent of each caption that has a right image: (M, 5)."""
    arrays = {name: torch.from_numpy(values) for name, values in scores.items() if values.dtype.kind in "fi"}
    matching = arrays["scores"] if order == "re-ranked" else None
    people = (arrays["text_person_ids"], arrays["image_person_ids"])
    return percentages(measure_queries(arrays["similarity"], matching, *people)).numpy()
