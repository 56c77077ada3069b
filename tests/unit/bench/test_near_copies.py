"""Pairs of crops by person and by the time between them."""

import numpy as np
import pytest

from bench.near_copies import Crops, pairs_of


def test_pairs_are_told_apart():
    angles = np.radians([0, 10, 40, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    pairs = pairs_of(Crops(vectors, person=np.array([0, 0, 0, 1]), frame=np.array([0, 1, 6, 1])))
    assert sorted(pairs.two_people) == pytest.approx(np.cos(np.radians([90, 80, 50])), abs=1e-6)
    assert {gap: found.tolist() for gap, found in pairs.one_person.items()} == {
        0.1: [pytest.approx(np.cos(np.radians(10)), abs=1e-6)],
        0.5: [pytest.approx(np.cos(np.radians(30)), abs=1e-6)],
        1.0: [],
    }
