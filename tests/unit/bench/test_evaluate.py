"""bench/evaluate.py: what it calls a fault, its made-up people, what is timed, and the command on a narrow model."""

import sys

import pytest
import torch

from bench import evaluate, rerank_memory, rerank_runs
from bench.rerank_cases import NARROW, RerankCase, captions, matching_model, people_of, random_gallery
from bench.rerank_runs import Agreement, Measured, RerankRun, agreement, faults, run_ours, run_plain, time_in_turns
from evaluation.metrics import measure_queries, percentages

INF = float("inf")
CPU = torch.device("cpu")
PLAIN = Measured([60.0, 70.0, 80.0], [(55.0, 65.0), (65.0, 75.0), (75.0, 85.0)])


@pytest.mark.parametrize(
    ("agreements", "r1", "auto", "expected"),
    [
        ([Agreement("fp32", 9, 9e-5, True), Agreement("bf16", 9, 0.019, False)], 56.0, "bf16", []),
        ([Agreement("bf16", 9, 0.5, False)], 60.0, "fp32", []),  # shown, but nobody gets it
        ([Agreement("fp32", 9, 2e-4, True)], 60.0, "fp32", ["scores in fp32 differ from plain by 2.0e-04"]),
        ([Agreement("fp32", 9, float("nan"), True)], 60.0, "fp32", ["scores in fp32 differ from plain by nan"]),
        ([Agreement("fp32", 9, 1e-6, False)], 60.0, "fp32", ["the order in fp32 is not that of plain"]),
        ([Agreement("fp16", 9, 0.03, True)], 60.0, "fp16", ["scores in fp16 differ from plain by 3.0e-02"]),
        ([], 54.0, "bf16", ["R@1, R@5 or R@10 in bf16 lies outside the interval of plain"]),
    ],
)
def test_faults(agreements, r1, auto, expected):
    measures = {"plain": PLAIN, "fp32": PLAIN, auto: PLAIN._replace(values=[r1, 70.0, 80.0])}
    found = faults(agreements, measures, auto)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_agreement_is_of_the_pairs_that_ours_scored():
    plain = RerankRun(torch.tensor([[3.0, 2.0, 1.0]]), 1.0)
    assert agreement("fp32", RerankRun(torch.tensor([[2.5, 2.0, -INF]]), 1.0), plain) == ("fp32", 2, 0.5, True)
    assert agreement("bf16", RerankRun(torch.tensor([[2.0, 2.5, -INF]]), 1.0), plain) == ("bf16", 2, 1.0, False)


def test_people_make_the_scores_rank_like_a_trained_model():
    scores = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    captions, images = people_of(scores)
    r1, r5, r10 = percentages(measure_queries(scores, None, captions, images)).mean(dim=0)[:3]
    assert 55 < r1 < r5 < r10 < 90
    assert len(images.unique()) == 32


def test_turns_score_all_pairs_once_and_both_as_in_one_go():
    """Three captions in three turns of the plain loop, five images in three turns of ours."""
    model, case = matching_model(NARROW, CPU), random_gallery(8, 5)
    timed = time_in_turns(model, case, 6, plain_queries=3, images=5)
    first = RerankCase(case.tokens, case.texts[:3], case.similarity[:3])
    torch.testing.assert_close(timed["plain"].run.scores, run_plain(model, first, 6).scores, rtol=0, atol=1e-6)
    whole = run_ours(model, case, 6, "fp32").scores.clone()
    whole[:, 5:] = -INF
    torch.testing.assert_close(timed["fp32"].run.scores, whole, rtol=0, atol=1e-6)
    run, rate = timed["plain"]
    assert run.pairs == 3 * 6
    assert rate >= run.pairs / run.seconds


def test_every_timed_run_is_warmed_up(monkeypatch):
    """Also in the precision that auto picks, whichever it is."""
    model, case, calls = matching_model(NARROW, CPU), random_gallery(8, 5), []
    monkeypatch.setattr(rerank_runs, "best_precision", lambda _: "bf16")
    monkeypatch.setattr(rerank_runs, "run_plain", lambda *_: calls.append("plain") or RerankRun(torch.zeros(1, 8), 1.0))
    monkeypatch.setattr(
        rerank_runs, "run_ours", lambda *args: calls.append(args[3]) or RerankRun(torch.zeros(16, 8), 1.0)
    )
    time_in_turns(model, case, 6, plain_queries=2, images=2)
    assert calls == ["plain", "fp32", "bf16"] * 3


SMALL = ["--gallery", "8", "--top-k", "6", "--plain-queries", "2", "--images", "2", "--small-gallery", "12"]


def test_command_says_what_was_compared(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", *SMALL])
    assert evaluate.main(NARROW) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("times plain", "largest difference", "R@1", "within", "ours, bf16"))
    assert "FAULT" not in shown


def test_command_fails_on_another_score(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", *SMALL])
    monkeypatch.setattr(rerank_runs, "rerank", lambda *args, **keys: rerank_memory.rerank(*args, **keys) + 3e-4)
    assert evaluate.main(NARROW) == 1
    assert "FAULT: scores in fp32 differ from plain by 3.0e-04, more than 0.0001" in capsys.readouterr().out


def test_memory_of_a_whole_evaluation(monkeypatch, capsys):
    """Every pair has a similarity, the candidates of some captions are scored, and all of it is measured."""
    monkeypatch.setattr(rerank_memory, "IMAGE_TOKENS", 7)
    shapes = []
    make_report = rerank_memory.make_report
    monkeypatch.setattr(
        rerank_memory, "make_report", lambda scores, tail: shapes.append(scores) or make_report(scores, tail)
    )
    rerank_memory.show_memory(200, 3)
    (scores,) = shapes
    assert scores.similarity.shape == scores.matching.shape == (200, 200)
    assert int((scores.matching > -INF).sum()) == 3 * 128
    assert f"384 of {200 * 128} pairs scored" in capsys.readouterr().out


def test_captions_are_as_long_as_those_of_cuhk_pedes():
    lengths = torch.tensor([len(ids) - 1 for ids in captions(4000)]).float()
    assert lengths.mean() == pytest.approx(23, abs=0.5)
    assert lengths.max() < 90
