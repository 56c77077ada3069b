"""Means and areas under the curve over people."""

import numpy as np
import pytest

from evaluation.grounding.people import area_under_curve, count_wins, mean_over_people, person_means


def test_everybody_counts_the_same():
    values = np.array([[1.0, 0.0], [3.0, 0.0], [10.0, 6.0]])
    person_id = np.array([7, 7, 2])
    np.testing.assert_array_equal(person_means(values, person_id), [[10, 6], [2, 0]])
    first, second = mean_over_people(values, person_id)
    assert (first.value, second.value) == (6, 3)
    assert first.low == 2
    assert first.high == 10


def plain_area(shown: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in shown for b in other]))


def test_area_is_the_share_of_all_pairs_in_order():
    rng = np.random.default_rng(0)
    shown, other = rng.integers(0, 6, 40) + 1.0, rng.integers(0, 6, 40) + 0.0
    person_id = rng.integers(0, 7, 40)
    area = area_under_curve(count_wins(shown, other, person_id))
    assert area.value == pytest.approx(plain_area(shown, other))
    assert area.low < area.value < area.high


@pytest.mark.parametrize(("shift", "area"), [(9.0, 1.0), (0.0, 0.5), (-9.0, 0.0)])
def test_area_of_separated_and_equal_scores(shift, area):
    scores = np.tile([1.0, 2.0, 3.0], 4)
    found = area_under_curve(count_wins(scores + shift, scores, np.arange(12) // 3))
    assert found == pytest.approx((area, area, area))


def test_interval_of_the_area_is_over_people():
    """Ten captions of one person are one draw: the interval does not shrink because there are more of them."""
    rng = np.random.default_rng(1)
    own = rng.normal(size=12)  # a person's scores are alike
    few = area_under_curve(count_wins(own + 0.5, np.zeros(12), np.arange(12)))
    many = area_under_curve(count_wins(np.repeat(own, 10) + 0.5, np.zeros(120), np.repeat(np.arange(12), 10)))
    assert many == pytest.approx(few)
