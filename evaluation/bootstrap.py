"""Bootstrap over queries: how far the measures would move with other queries. M queries, C measures.

Each draw takes M of the M queries with replacement and averages their measures (Efron and Tibshirani, An Introduction
to the Bootstrap, chapters 13 and 16: percentile intervals). Gallery and model stay as they are. The same seed gives the
same numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from utils.log import progress

RESAMPLES = 2000  # for intervals
PAIRED_RESAMPLES = 10_000  # for p values, of which the smallest is 2 / (resamples + 1)
LEVEL = 0.95
SEED = 0
DRAWS_AT_A_TIME = 2**22  # drawn queries; bounds the memory


class PairedTest(NamedTuple):
    """Mean of b - a for each measure, all (C,)."""

    difference: np.ndarray
    low: np.ndarray  # ends of the LEVEL interval
    high: np.ndarray
    p_value: np.ndarray  # two-sided, in (0, 1]; below 1 - LEVEL where the interval excludes 0


def resampled_means(values: np.ndarray, resamples: int, seed: int = SEED) -> np.ndarray:
    """Means over queries drawn with replacement: values (M, C) -> (resamples, C) float64.

    Raises: ValueError if there is no query.
    """
    if len(values) == 0:
        raise ValueError("no query to draw from")
    generator, means = np.random.default_rng(seed), []
    with progress[None](resamples, "bootstrap", "draws") as bar:
        for counts in drawn_counts(len(values), resamples, generator):
            means.append(counts @ values / len(values))
            bar.advance(len(counts))
    return np.concatenate(means)


def confidence_intervals(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> list[tuple[float, float]]:
    """Lower and upper end of the LEVEL interval of each column's mean: values (M, C) -> C pairs.

    A single query, or queries with equal measures, give an interval of width 0.
    """
    low, high = interval_ends(resampled_means(values, resamples, seed))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def paired_test(a: np.ndarray, b: np.ndarray, resamples: int = PAIRED_RESAMPLES, seed: int = SEED) -> PairedTest:
    """Test whether two models differ on the same queries: a, b (M, C), one query per row.

    p is twice the share of draws in which the difference has the other sign or is 0. One such draw is added, so that p
    is never 0. This is the largest p at which a two-sided percentile interval still reaches 0.
    Raises: ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"a {a.shape} and b {b.shape} must hold the same queries and measures")
    means = resampled_means(b - a, resamples, seed)
    rounding = 1e-9 * np.abs(b - a).max()  # differences that cancel out leave about 1e-14
    beyond = np.minimum((means <= rounding).sum(axis=0), (means >= -rounding).sum(axis=0))
    p_value = np.minimum(1.0, 2 * (beyond + 1) / (resamples + 1))
    return PairedTest((b - a).mean(axis=0), *interval_ends(means), p_value)


def drawn_counts(num_queries: int, resamples: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each query was drawn: (n, M) float64 for n resamples at a time."""
    at_a_time = max(1, DRAWS_AT_A_TIME // num_queries)
    for first in range(0, resamples, at_a_time):
        n = min(at_a_time, resamples - first)
        drawn = generator.integers(num_queries, size=(n, num_queries))
        drawn += num_queries * np.arange(n)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n * num_queries).reshape(n, num_queries).astype(np.float64)


def interval_ends(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the LEVEL interval of each measure: means (resamples, ...) -> two arrays (...)."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
