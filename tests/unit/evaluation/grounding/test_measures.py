"""Re-ranking against similarity, over people; the pictures of somebody else."""

import torch

from evaluation.grounding.measures import _somebody_else, measure_reranking
from evaluation.retrieval import Scores


def scores(matching: torch.Tensor) -> Scores:
    """Four captions of two people, four images, ordered by similarity alone: one caption is right at rank 1."""
    similarity = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 2, 1]])
    people = torch.tensor([1, 1, 2, 2])
    return Scores(similarity, matching, people, people, {})


def test_nothing_re_ranked():
    assert measure_reranking(scores(torch.full((4, 4), -torch.inf)), "similarity") is None


def test_difference_of_the_two_orders():
    right = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    found = measure_reranking(scores(right), "similarity")
    assert found is not None
    assert found.similarity[0] == 25
    assert found.reranked.tolist() == [100] * 5
    assert found.test.difference[0] == 75
    assert found.test.low[0] == 50  # person 1 gains 50, person 2 gains 100
    assert found.test.high[0] == 100


def test_somebody_else_is_another_person():
    people = torch.tensor([1, 1, 1, 2, 2])
    assert [int(people[_somebody_else(people, row)]) for row in range(5)] == [2, 2, 2, 1, 1]
    assert _somebody_else(torch.tensor([1, 1]), 0) == 0
