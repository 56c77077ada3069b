"""The report of an evaluation: its JSON and its tables."""

import json
import logging

import pytest
import torch
from rich.console import Console

from evaluation.metrics import HEADERS, mean_metrics, measure_queries
from evaluation.report import (
    harm_of_reranking,
    latex_rows,
    make_report,
    markdown_table,
    measure_orders,
    measures_table,
    report_json,
)
from evaluation.rerank import top_candidates
from evaluation.retrieval import Scores, measure
from utils import log

TITLE = "CUHK-PEDES test, output/a_b/best.pth"


def measure_first_stage(scores):
    people = (scores.text_person_id, scores.image_person_id)
    return mean_metrics(measure_queries(scores.similarity, None, *people))


@pytest.fixture(scope="module")
def scores() -> Scores:
    """40 captions of 10 people, 20 images; 5 re-ranked per caption. Person 9 is in no image."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(40, 20, generator=generator)
    matching = torch.rand(40, 20, generator=generator).masked_fill(similarity < 0.75, -torch.inf)
    return Scores(similarity, matching, torch.arange(40) % 10, torch.arange(20) % 9, {})


@pytest.fixture(scope="module")
def report(scores):
    changed = measure_orders(scores._replace(similarity=1 - scores.similarity), "similarity")[1]
    return make_report(scores, "similarity", {"dropped_words": changed})


def test_measures_are_those_of_the_training_loop(scores, report):
    assert report.text_to_image["re-ranked"].metrics == measure(scores, "similarity")
    assert report.text_to_image["similarity"].metrics == measure_first_stage(scores)
    assert measure_orders(scores, "constant")[1]["re-ranked"].metrics == measure(scores, "constant")
    assert report.text_to_image["re-ranked"].metrics.num_without_match == 4
    assert report.image_to_text["re-ranked"].metrics.num_queries == 20


def test_what_may_take_long_is_said(scores, monkeypatch, caplog):
    """Ranking, intervals and the choice of candidates, of ICFG-PEDES each many seconds."""
    monkeypatch.setattr(log, "LINE_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "utils.log"):
        make_report(scores, "similarity")
        top_candidates(scores.similarity, 3)
    for line in (
        "rank: 40/40 queries",
        "rank: 20/20 queries",
        "bootstrap: 2000/2000 draws",
        "candidates: 40/40 captions",
    ):
        assert line in caplog.text


def test_json_keeps_the_old_keys_at_the_top(report):
    data = json.loads(json.dumps(report_json(report)))
    row = report.text_to_image["re-ranked"]
    assert {name: data[name] for name in row.metrics._fields} == row.metrics._asdict()
    assert data["similarity"]["R1"] == report.text_to_image["similarity"].metrics.R1
    assert data["chance"] == report.chance._asdict()
    assert data["intervals"]["mAP"] == list(row.intervals[3])
    assert data["image_to_text"]["similarity"]["mINP"] == report.image_to_text["similarity"].metrics.mINP
    assert data["perturbed"]["dropped_words"]["R5"] == report.perturbed["dropped_words"]["re-ranked"].metrics.R5
    assert data["bootstrap"] == {"resamples": 2000, "seed": 0, "level": 0.95}
    assert "perturbed" not in report_json(report._replace(perturbed={}))


def test_terminal_shows_every_measure_within_80_columns(report):
    console = Console(width=80)
    with console.capture() as shown:
        console.print(measures_table(report, TITLE))
    text = shown.get()
    assert all(header in text for header in (*HEADERS, "text to image", "image to text", "chance", "dropped words"))
    for row in (*report.text_to_image.values(), *report.image_to_text.values()):
        assert all(f"{value:.2f}" in text for value in row.metrics[:5])
        assert all(f"{low:.1f}-{high:.1f}" in text for low, high in row.intervals)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text  # nothing is cut off


def test_markdown_and_latex_have_a_row_per_ranking(report):
    markdown = markdown_table(report, TITLE).splitlines()
    assert len(markdown) == 2 + 2 + 2 + 2  # headers, two directions, captions as they are and changed
    assert all(line.count("|") == 7 for line in markdown)
    latex = latex_rows(report, TITLE).splitlines()
    rows = [line for line in latex if not line.startswith("%")]
    assert len(rows) == len(markdown) - 2
    assert all(line.count("&") == 5 and line.endswith(r" \\") for line in rows)
    metrics = report.text_to_image["re-ranked"].metrics
    assert f"& {metrics.R1:.2f} & {metrics.R5:.2f}" in rows[0]
    assert f"| {metrics.R1:.2f} (" in markdown[2]


def test_re_ranking_that_does_harm_is_told(scores):
    right = scores.text_person_id[:, None] == scores.image_person_id
    similarity = right.float() + scores.similarity / 2
    good = scores._replace(similarity=similarity, matching=torch.full_like(similarity, -torch.inf))
    assert harm_of_reranking(make_report(good, "similarity")) is None  # nothing is re-ranked
    assert harm_of_reranking(make_report(good._replace(matching=similarity), "similarity")) is None
    warning = harm_of_reranking(make_report(good._replace(matching=-similarity), "similarity"))
    assert warning is not None
    assert "from 100.00 to 0.00" in warning
    assert "\n" not in warning
