"""Bootstrap over queries: against a plain loop and theory, its coverage, and the paired test."""

import numpy as np
import pytest

import evaluation.bootstrap
from evaluation.bootstrap import confidence_intervals, paired_test, resampled_means


def values(num_queries: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_queries, 3)) * 100


def test_means_are_those_of_drawn_queries():
    """The plain loop: draw rows, take their mean."""
    own, generator = values(7), np.random.default_rng(5)
    expected = [own[rows].mean(axis=0) for rows in generator.integers(7, size=(4, 7))]
    np.testing.assert_allclose(resampled_means(own, 4, seed=5), expected, rtol=1e-12)


def test_interval_is_that_of_the_normal_law_for_many_queries():
    own = values(2000)
    for (low, high), mean, deviation in zip(
        confidence_intervals(own, 4000), own.mean(axis=0), own.std(axis=0), strict=True
    ):
        half = 1.96 * deviation / np.sqrt(len(own))
        assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_interval_covers_the_true_mean_in_95_of_100_samples():
    """200 samples of 60 queries that are hits with probability 0.6; percentile intervals cover a bit less."""
    generator = np.random.default_rng(0)
    samples = 100.0 * (generator.random((60, 200)) < 0.6)  # every column a sample of its own
    covered = [low <= 60 <= high for low, high in confidence_intervals(samples, 1000)]
    assert 0.89 <= np.mean(covered) <= 0.99


def test_same_seed_same_interval_and_blocks_change_nothing(monkeypatch):
    own = values(50)
    first = confidence_intervals(own, 100, seed=3)
    assert first == confidence_intervals(own, 100, seed=3)
    assert first != confidence_intervals(own, 100, seed=4)
    monkeypatch.setattr(evaluation.bootstrap, "DRAWS_AT_A_TIME", 350)  # seven draws at a time
    np.testing.assert_allclose(confidence_intervals(own, 100, seed=3), first, rtol=1e-12)


def test_one_query_has_an_interval_without_width():
    assert confidence_intervals(np.array([[40.0, 100.0]])) == [(40.0, 40.0), (100.0, 100.0)]


def test_equal_models_do_not_differ():
    own = values(30)
    test = paired_test(own, own, 200)
    assert test.difference.tolist() == test.low.tolist() == test.high.tolist() == [0, 0, 0]
    assert test.p_value.tolist() == [1, 1, 1]


def test_a_shift_of_every_query_is_certain():
    """Paired: the spread of the queries themselves does not matter."""
    own = values(30)
    test = paired_test(own, own + np.array([0.5, -0.5, 0]), 999)
    assert test.difference == pytest.approx([0.5, -0.5, 0])
    assert test.p_value == pytest.approx([2 / 1000, 2 / 1000, 1])


def test_p_is_that_of_the_sign_test_for_a_clear_case():
    """b hits 14 queries that a misses, a hits 2 that b misses, 84 alike: McNemar's exact two-sided p is 0.0042."""
    a, b = np.zeros((100, 1)), np.zeros((100, 1))
    b[:14], a[14:16] = 100, 100
    test = paired_test(a, b)
    assert test.difference.item() == pytest.approx(12)
    assert 0.0005 < test.p_value.item() < 0.01
    assert test.low.item() > 0


def test_few_false_alarms_between_models_that_do_not_differ():
    """300 pairs of models that are as good as each other: about 5 % have p < 0.05."""
    generator = np.random.default_rng(1)
    a, b = (100.0 * (generator.random((80, 300)) < 0.5) for _ in range(2))
    assert 0.02 <= np.mean(paired_test(a, b, 1000).p_value < 0.05) <= 0.09


def test_p_and_interval_agree():
    generator = np.random.default_rng(2)
    a, b = generator.random((40, 50)), generator.random((40, 50)) + np.linspace(-0.3, 0.3, 50)
    test = paired_test(a, b, 2000)
    outside = (test.low > 0) | (test.high < 0)
    clear = np.abs(test.p_value - 0.05) > 0.003
    assert ((test.p_value < 0.05) == outside)[clear].all()
    assert outside.any()
    assert not outside.all()


def test_refusals():
    with pytest.raises(ValueError, match="no query"):
        resampled_means(np.empty((0, 5)), 10)
    with pytest.raises(ValueError, match="must hold the same queries"):
        paired_test(np.zeros((2, 5)), np.zeros((3, 5)))
