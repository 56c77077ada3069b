"""Pointing accuracy: where the strongest patch of a word lies."""

from random import Random

import numpy as np
import pytest
import torch

from dataset.synthpedes.naming import Caption, Naming
from dataset.synthpedes.parts import Part
from dataset.synthpedes.people import sample_people
from dataset.tokenizer import Encoded
from evaluation.grounding.cases import Case
from evaluation.grounding.pointing import Pointed, measure_pointing, point, score_map

BOX = Part((0.25, 0.0, 0.75, 0.25), 0.1)  # of a grid of 4 x 2: half of each patch of the first row


def one_hot(row: int, column: int, shape: tuple[int, int] = (4, 2)) -> np.ndarray:
    heat = np.zeros(shape, dtype=np.float32)
    heat[row, column] = 2.0
    return heat


def test_score_is_the_share_of_the_strongest_patch_in_the_box():
    assert score_map(one_hot(0, 1), BOX) == (0.5, 0.125)
    assert score_map(one_hot(1, 1), BOX) == (0.0, 0.125)
    assert score_map(one_hot(1, 1, (8, 4)), BOX)[0] == 1.0


def test_a_map_without_attention_points_nowhere():
    assert score_map(np.zeros((4, 2)), Part((0, 0, 1, 1), 1.0)) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(4, 2), (7, 3), (12, 6)])
def test_a_random_patch_scores_chance(shape):
    part = Part((0.11, 0.3, 0.52, 0.77), 0.1)
    scores = [score_map(one_hot(row, column, shape), part)[0] for row in range(shape[0]) for column in range(shape[1])]
    assert np.mean(scores) == pytest.approx(score_map(np.ones(shape), part)[1])


def test_words_point_with_the_mean_of_their_tokens_and_hidden_parts_are_left_out():
    names = [Naming("upper_colour", "upper", 2, 11), Naming("upper", "upper", 12, 16), Naming("hat", "hat", 21, 24)]
    caption = Caption("a navy blue coat and cap", names)
    person = sample_people(1, 0.0, set(), Random(0))[0][0]
    case = Case(0, 0, 5, person, caption, {"upper": BOX, "person": BOX})
    encoded = Encoded([1, 2, 3, 4, 5, 6], [(0, 0), (0, 1), (2, 4), (4, 6), (7, 11), (12, 16)])  # "na", "vy"; then cut
    maps = torch.zeros(6, 4, 2)
    maps[2, 3, 0], maps[3, 0, 0] = 1.0, 3.0  # "navy": the second piece is stronger, and in the box
    maps[4, 3, 0] = 1.0  # "blue": outside
    pointed = list(point(case, encoded, maps))
    assert pointed == [Pointed("upper", 5, score, 0.125) for score in (0.5, 0.0, 0.0)]


def test_accuracy_by_part_and_of_all():
    words = [Pointed("upper", 1, 1.0, 0.2), Pointed("upper", 2, 0.0, 0.2), Pointed("hat", 1, 0.0, 0.1)]
    found = measure_pointing(words)
    assert {name: (own.accuracy.value, own.words) for name, own in found.items()} == {
        "all": (0.25, 3),  # person 1 has two words, person 2 one
        "hat": (0.0, 1),
        "upper": (0.5, 2),
    }
    assert found["upper"].above_chance.value == pytest.approx(0.3)
    assert found["upper"].chance.value == pytest.approx(0.2)
    assert measure_pointing([]) == {}
