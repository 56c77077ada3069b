"""Means and intervals over people: their captions are alike, so people are drawn, not captions or words."""

from typing import NamedTuple

import numpy as np

from evaluation.bootstrap import RESAMPLES, SEED, confidence_intervals, drawn_counts, interval_ends


class Mean(NamedTuple):
    """A mean with the ends of its 95 % interval over people."""

    value: float
    low: float
    high: float


def person_means(values: np.ndarray, person_id: np.ndarray) -> np.ndarray:
    """Mean over each person's rows, people in ascending order: (N, C), (N,) -> (P, C)."""
    _, place, counts = np.unique(person_id, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, place, values)
    return sums / counts[:, None]


def mean_over_people(values: np.ndarray, person_id: np.ndarray) -> list[Mean]:
    """The mean of each column, in which everybody counts the same: (N, C), (N,) -> C means."""
    means = person_means(values, person_id)
    intervals = confidence_intervals(means)
    return [Mean(float(value), *ends) for value, ends in zip(means.mean(axis=0), intervals, strict=True)]


class Wins(NamedTuple):
    """Outcomes of all pairs of a score of `shown` and one of `other`. P people."""

    wins: np.ndarray  # (P, P): how often shown of one person is above other of another, ties counting half
    counts: np.ndarray  # (P,): scores of each person


def count_wins(shown: np.ndarray, other: np.ndarray, person_id: np.ndarray) -> Wins:
    """All (N,): row n of both belongs to person_id[n]."""
    people, place = np.unique(person_id, return_inverse=True)
    wins = np.zeros((len(people), len(people)))
    for number in range(len(people)):
        against = np.sort(other[place == number])
        below = (np.searchsorted(against, shown, "left") + np.searchsorted(against, shown, "right")) / 2
        np.add.at(wins[:, number], place, below)
    return Wins(wins, np.bincount(place))


def area_under_curve(found: Wins) -> Mean:
    """Probability that a score of `shown` is above one of `other`: the area under the ROC curve."""
    wins, counts = found
    values = [
        np.einsum("rp,pq,rq->r", drawn, wins, drawn, optimize=True) / (drawn @ counts) ** 2
        for drawn in drawn_counts(len(counts), RESAMPLES, np.random.default_rng(SEED))
    ]
    low, high = interval_ends(np.concatenate(values))
    return Mean(float(wins.sum() / counts.sum() ** 2), float(low), float(high))
