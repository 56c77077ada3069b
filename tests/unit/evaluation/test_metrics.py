"""Ranking and measures: values known by hand, a slow plain loop, ties, blocks, what is refused."""

from itertools import permutations

import pytest
import torch

import evaluation.metrics
from evaluation.metrics import chance_level, mean_metrics, measure_queries, percentages, rank_gallery, retrieval_metrics

INF = float("inf")


def test_similarity_order_breaks_ties_by_gallery_order():
    assert rank_gallery(torch.tensor([[0.5, 0.9, 0.5, 0.9]])).tolist() == [[1, 3, 0, 2]]


def test_reranked_come_first_and_the_tail_follows_similarity():
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.2]])
    scores = torch.tensor([[-3.0, 2.0, -3.0, -INF, -INF]])
    assert rank_gallery(similarity, scores).tolist() == [[1, 0, 2, 4, 3]]
    assert rank_gallery(similarity, scores, tail="constant").tolist() == [[1, 0, 2, 3, 4]]


def test_ties_of_matching_scores_are_broken_by_gallery_order_too():
    similarity = torch.tensor([[0.1, 0.9, 0.5]])
    assert rank_gallery(similarity, torch.tensor([[1.0, 1.0, -INF]])).tolist() == [[0, 1, 2]]


def test_order_is_that_of_a_plain_sort():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randint(-3, 4, (20, 15), generator=generator) / 4
    scores = torch.randint(-3, 4, (20, 15), generator=generator).float()
    scores[torch.rand(20, 15, generator=generator) < 0.5] = -INF

    def key(row: int, image: int) -> tuple[bool, float, int]:
        reranked = bool(scores[row, image] > -INF)
        return not reranked, -float(scores[row, image] if reranked else similarity[row, image]), image

    expected = [sorted(range(15), key=lambda image, row=row: key(row, image)) for row in range(20)]
    assert rank_gallery(similarity, scores).tolist() == expected


def test_measures_by_hand():
    """Query 0: right at ranks 1 and 3. Query 1: right at rank 6. Query 2: no right image."""
    gallery = torch.tensor([1, 9, 1, 9, 9, 2])
    order = torch.arange(6).expand(3, 6)
    metrics = retrieval_metrics(order, torch.tensor([1, 2, 3]), gallery)
    mean_ap, mean_inp = 100 * ((1 + 2 / 3) / 2 + 1 / 6) / 2, 100 * (2 / 3 + 1 / 6) / 2
    assert metrics[:5] == pytest.approx((50, 50, 100, mean_ap, mean_inp))
    assert metrics.num_queries == 3
    assert metrics.num_without_match == 1


def test_order_is_read_as_gallery_rows():
    metrics = retrieval_metrics(torch.tensor([[2, 0, 1]]), torch.tensor([7]), torch.tensor([5, 6, 7]))
    assert metrics[:5] == (100, 100, 100, 100, 100)


def test_measures_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randint(0, 6, (40,), generator=generator)
    queries = torch.randint(0, 6, (30,), generator=generator)
    order = torch.rand(30, 40, generator=generator).argsort(dim=1)
    precisions, penalties, hits = [], [], []
    for query, ranking in zip(queries.tolist(), order.tolist(), strict=True):
        ranks = [rank for rank, image in enumerate(ranking, 1) if gallery[image] == query]
        precisions.append(sum((i + 1) / rank for i, rank in enumerate(ranks)) / len(ranks))
        penalties.append(len(ranks) / ranks[-1])
        hits.append([ranks[0] <= k for k in (1, 5, 10)])
    expected = [*(100 * torch.tensor(hits).double().mean(dim=0)).tolist()]
    expected += [100 * sum(precisions) / 30, 100 * sum(penalties) / 30]
    assert retrieval_metrics(order, queries, gallery)[:5] == pytest.approx(expected, rel=1e-12)


def test_blocks_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(10, 7, generator=generator)
    scores = torch.rand(10, 7, generator=generator).masked_fill(similarity < 0.5, -INF)
    queries, gallery = torch.arange(10) % 4, torch.arange(7) % 3

    def measure() -> tuple[torch.Tensor, tuple]:
        order = rank_gallery(similarity, scores)
        return order, retrieval_metrics(order, queries, gallery)

    order, metrics = measure()
    monkeypatch.setattr(evaluation.metrics, "BLOCK_ENTRIES", 21)  # three queries at a time
    order_in_blocks, metrics_in_blocks = measure()
    torch.testing.assert_close(order_in_blocks, order, rtol=0, atol=0)
    assert metrics_in_blocks == pytest.approx(metrics)


def test_chance_is_the_mean_over_all_orders():
    """Three right images of six for half of the queries, one for a quarter, none for the last."""
    gallery, queries = torch.tensor([1, 2, 1, 9, 9, 1]), torch.tensor([1, 1, 2, 7])
    orders = torch.tensor(list(permutations(range(6))))
    measured = [retrieval_metrics(orders, query.expand(len(orders)), gallery)[:5] for query in queries[:3]]
    chance = chance_level(queries, gallery)
    assert chance[:5] == pytest.approx([sum(values) / 3 for values in zip(*measured, strict=True)], rel=1e-12)
    assert chance[5:] == (4, 1)


def test_chance_in_a_gallery_of_one_and_in_a_large_one():
    assert chance_level(torch.tensor([3]), torch.tensor([3]))[:5] == pytest.approx([100] * 5)
    chance = chance_level(torch.arange(1000), torch.arange(20_000) % 1000)
    assert pytest.approx(0.1) == chance.R1
    assert chance.R1 < chance.mAP < chance.R5 < chance.R10 < 100


def test_refusals():
    similarity = torch.rand(2, 3)
    with pytest.raises(ValueError, match="tail must be"):
        rank_gallery(similarity, tail="random")
    with pytest.raises(ValueError, match=r"scores \(2, 4\)"):
        rank_gallery(similarity, torch.rand(2, 4))
    with pytest.raises(ValueError, match="NaN"):
        rank_gallery(similarity, torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="NaN"):
        rank_gallery(torch.full((2, 3), torch.nan))
    order, people = rank_gallery(similarity), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="does not fit 3 queries and 3 images"):
        retrieval_metrics(order, people, people)
    with pytest.raises(ValueError, match="no query has an image"):
        retrieval_metrics(order, torch.tensor([8, 9]), people)
    with pytest.raises(ValueError, match="no query has an image"):
        chance_level(torch.tensor([8, 9]), people)


def test_each_query_by_hand():
    """Query 0: right at ranks 1 and 3. Query 1: right at rank 6. Query 2: no right image."""
    gallery = torch.tensor([1, 9, 1, 9, 9, 2])
    similarity = torch.linspace(1, 0, 6).expand(3, 6)
    queries = measure_queries(similarity, None, torch.tensor([1, 2, 3]), gallery)
    assert queries.first_rank.tolist() == [1, 6, 0]
    assert queries.num_right.tolist() == [2, 1, 0]
    assert queries.average_precision.tolist() == pytest.approx([5 / 6, 1 / 6, torch.nan], nan_ok=True)
    assert queries.inverse_penalty.tolist() == pytest.approx([2 / 3, 1 / 6, torch.nan], nan_ok=True)
    assert queries.first_row.tolist() == [0, 0, 0]
    hits = [[100, 100, 100], [0, 0, 100]]
    assert percentages(queries)[:, :3].tolist() == hits  # the query without a right image is left out
    assert mean_metrics(queries) == retrieval_metrics(rank_gallery(similarity), torch.tensor([1, 2, 3]), gallery)


def test_means_of_the_queries_are_the_measures():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(30, 40, generator=generator)
    scores = torch.rand(30, 40, generator=generator).masked_fill(similarity < 0.8, -INF)
    people, gallery = torch.arange(30) % 7, torch.arange(40) % 6  # person 6 is not in the gallery
    for tail in ("similarity", "constant"):
        order = rank_gallery(similarity, scores, tail)
        queries = measure_queries(similarity, scores, people, gallery, tail)
        assert mean_metrics(queries) == retrieval_metrics(order, people, gallery)
        assert torch.equal(queries.first_row, order[:, 0])
    assert int((queries.first_rank == 0).sum()) == 4


@pytest.mark.parametrize("tail", ["similarity", "constant"])
def test_ranks_of_right_images_are_their_places_in_the_order(tail):
    """With many ties, queries without re-ranked images, and queries without a right one."""
    generator = torch.Generator().manual_seed(0)
    similarity = torch.randint(-4, 5, (60, 25), generator=generator) / 4
    scores = torch.randint(-3, 4, (60, 25), generator=generator).float()
    scores[torch.rand(60, 25, generator=generator) < 0.6] = -INF
    scores[::7] = -INF
    people, gallery = torch.arange(60) % 5, torch.randint(0, 4, (25,), generator=generator)
    queries = measure_queries(similarity, scores, people, gallery, tail)
    for row, order in enumerate(rank_gallery(similarity, scores, tail).tolist()):
        ranks = [rank for rank, image in enumerate(order, 1) if gallery[image] == people[row]]
        precision = sum(found / rank for found, rank in enumerate(ranks, 1)) / len(ranks) if ranks else torch.nan
        assert queries.first_row[row] == order[0]
        assert (queries.first_rank[row], queries.num_right[row]) == ((ranks or [0])[0], len(ranks))
        assert queries.average_precision[row].item() == pytest.approx(precision, nan_ok=True)
        penalty = len(ranks) / ranks[-1] if ranks else torch.nan
        assert queries.inverse_penalty[row].item() == pytest.approx(penalty, nan_ok=True)


def test_one_image_only():
    """A gallery of one image, and one right image among others: AP and INP are 1 / its rank."""
    assert measure_queries(torch.ones(1, 1), None, torch.tensor([3]), torch.tensor([3])).first_rank.tolist() == [1]
    queries = measure_queries(torch.tensor([[0.1, 0.2, 0.3]]), None, torch.tensor([3]), torch.tensor([4, 3, 5]))
    assert queries.average_precision.tolist() == queries.inverse_penalty.tolist() == [0.5]


def test_several_right_images_with_equal_scores_are_ranked_in_gallery_order():
    queries = measure_queries(torch.zeros(1, 4), None, torch.tensor([3]), torch.tensor([4, 3, 5, 3]))
    assert queries.first_rank.item() == 2
    assert queries.average_precision.item() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert queries.inverse_penalty.item() == pytest.approx(2 / 4)


def test_image_to_text_is_the_ranking_of_the_columns():
    """Image 0 was re-ranked for captions 1 and 2 (which come first, by score), caption 0 follows by similarity."""
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.4, 0.8]])
    scores = torch.tensor([[-INF, 2.0], [5.0, -INF], [1.0, -INF]])
    assert rank_gallery(similarity.T, scores.T).tolist() == [[1, 2, 0], [0, 2, 1]]
    queries = measure_queries(similarity.T, scores.T, torch.tensor([7, 8]), torch.tensor([7, 8, 7]))
    assert queries.first_rank.tolist() == [2, 3]
    assert queries.num_right.tolist() == [2, 1]


def test_blocks_change_no_query(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    arguments = (torch.rand(10, 7, generator=generator), None, torch.arange(10) % 4, torch.arange(7) % 3)
    whole = measure_queries(*arguments)
    monkeypatch.setattr(evaluation.metrics, "BLOCK_ENTRIES", 21)  # three queries at a time
    for ours, blocked in zip(whole, measure_queries(*arguments), strict=True):
        torch.testing.assert_close(blocked, ours, rtol=0, atol=0, equal_nan=True)


def test_queries_that_do_not_fit_are_refused():
    people = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match=r"similarity.*does not fit 3 queries and 3 images"):
        measure_queries(torch.rand(2, 3), None, people, people)
    with pytest.raises(ValueError, match="no query has an image"):
        percentages(measure_queries(torch.rand(1, 3), None, torch.tensor([9]), people))
    with pytest.raises(ValueError, match="no query has an image"):
        mean_metrics(measure_queries(torch.empty(0, 3), None, torch.empty(0), people))
