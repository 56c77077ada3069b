"""Ranking and measures against the evaluation of RaSa (the same in MAMBA-TBPS) and of IRRA.

The published values are float32 percentages: rtol 1e-6, atol 1e-5. Orders are compared exactly.
"""

import math
from typing import Any

import pytest
import torch

from evaluation.metrics import Metrics, mean_metrics, measure_queries, rank_gallery, retrieval_metrics
from tests.helpers.vectors import load_case


def assert_measures(metrics: Metrics, published: dict[str, float], share: float = 1.0) -> None:
    """Compare share * each measure that `published` names with it."""
    ours = {key: share * getattr(metrics, key) for key in published}
    assert ours == pytest.approx(published, rel=1e-6, abs=1e-5)


def rank_measures(meta: dict[str, Any]) -> dict[str, float]:
    return {key: meta["results"]["itm_eval"][key.lower()] for key in ("R1", "R5", "R10")}


@pytest.mark.parametrize("name", ["basic", "single_pos", "small_gallery", "topk_ties"])
def test_measures_of_the_published_order(name):
    meta, case = load_case(f"metrics/{name}")
    metrics = retrieval_metrics(case["argsort"], case["query_ids"], case["gallery_ids"])
    assert_measures(metrics, rank_measures(meta))
    assert_measures(metrics, {"mAP": meta["results"]["itm_eval"]["mAP"], "mINP": meta["results"]["irra_rank"]["mINP"]})
    assert metrics.num_queries == len(case["query_ids"])
    assert metrics.num_without_match == 0


@pytest.mark.parametrize("name", ["basic", "single_pos", "small_gallery", "no_positive"])
def test_order_without_ties(name):
    _, case = load_case(f"metrics/{name}")
    torch.testing.assert_close(rank_gallery(case["scores"]), case["argsort"], rtol=0, atol=0)


def test_order_with_ties_behind_the_reranked():
    """Published: equal scores of -100, in the sort's own order. Ours, constant: the same, in gallery order."""
    meta, case = load_case("metrics/topk_ties")
    scores = case["scores"].masked_fill(case["scores"] == -100, -torch.inf)
    order = rank_gallery(torch.zeros_like(scores), scores, tail="constant")
    num_reranked = int((scores[0] > -torch.inf).sum())
    torch.testing.assert_close(order[:, :num_reranked], case["argsort"][:, :num_reranked], rtol=0, atol=0)
    assert (order[:, num_reranked:].diff(dim=1) > 0).all()
    metrics = retrieval_metrics(order, case["query_ids"], case["gallery_ids"])
    ranks = rank_measures(meta)
    assert_measures(metrics, {"R1": ranks["R1"], "R5": ranks["R5"]})


def test_query_without_a_right_image():
    """Published: such a query is a miss for Rank-k and makes mAP NaN. Ours: left out of all means, and counted."""
    meta, case = load_case("metrics/no_positive")
    metrics = retrieval_metrics(case["argsort"], case["query_ids"], case["gallery_ids"])
    assert meta["results"]["itm_eval"]["mAP"] == "nan"
    assert "IndexError" in meta["results"]["irra_rank_crash"]
    assert metrics.num_without_match == 1
    share = (metrics.num_queries - metrics.num_without_match) / metrics.num_queries
    assert_measures(metrics, rank_measures(meta), share)
    assert math.isfinite(metrics.mAP)


@pytest.mark.parametrize("name", ["basic", "single_pos", "small_gallery"])
def test_measures_of_each_query_average_to_the_published(name):
    """eval.py's way: ranked and measured a block of queries at a time, without the whole order."""
    meta, case = load_case(f"metrics/{name}")
    metrics = mean_metrics(measure_queries(case["scores"], None, case["query_ids"], case["gallery_ids"]))
    assert_measures(metrics, rank_measures(meta))
    assert_measures(metrics, {"mAP": meta["results"]["itm_eval"]["mAP"], "mINP": meta["results"]["irra_rank"]["mINP"]})


@pytest.mark.parametrize("name", ["basic", "single_pos", "small_gallery"])
def test_cumulative_matches_of_irra(name):
    """The share of queries with a first right image at rank k or better, for every published k."""
    _, case = load_case(f"metrics/{name}")
    first_rank = measure_queries(case["scores"], None, case["query_ids"], case["gallery_ids"]).first_rank
    ours = [100 * (first_rank <= k).double().mean().item() for k in range(1, len(case["irra_all_cmc"]) + 1)]
    assert ours == pytest.approx(case["irra_all_cmc"].tolist(), rel=1e-6, abs=1e-5)
