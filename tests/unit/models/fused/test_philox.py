"""Random numbers of the dropout: known values of Philox, and their statistics."""

import pytest
import torch

from models.fused.philox import philox, uniform


def numbers(seed, counter, call):
    words = philox(torch.tensor([seed]), torch.tensor([counter]), call)
    return [f"{word.item():08x}" for word in words]


def test_known_answer():
    """The first vector of Random123's kat_vectors, "philox4x32 10", key and counter zero."""
    assert numbers(0, 0, 0) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_every_part_of_seed_and_counter_counts():
    drawn = [numbers(*args) for args in [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    assert len({tuple(each) for each in drawn}) == len(drawn)


@pytest.mark.parametrize("dim", [1, 6, 64])
def test_numbers_are_uniform_and_rows_differ(dim):
    drawn = uniform(torch.tensor([7]), 3, 4096, dim)
    assert drawn.shape == (4096, dim)
    assert drawn.dtype == torch.float32
    assert ((drawn >= 0) & (drawn < 1)).all()
    deviation = 12**-0.5 / drawn.numel() ** 0.5
    assert abs(drawn.mean().item() - 0.5) < 5 * deviation
    assert drawn.unique().numel() > 0.99 * drawn.numel()


@pytest.mark.parametrize("prob", [0.1, 0.5])
def test_share_below_a_probability(prob):
    share = (uniform(torch.tensor([7]), 3, 512, 512) < prob).double().mean().item()
    assert abs(share - prob) < 5 * (prob * (1 - prob)) ** 0.5 / 512


def test_seeds_and_calls_are_independent():
    def coins(seed, call):
        return uniform(torch.tensor([seed]), call, 256, 256) < 0.5

    first = coins(1, 1)
    assert torch.equal(first, coins(1, 1))
    for other in (coins(2, 1), coins(1, 2)):
        assert abs((first == other).double().mean().item() - 0.5) < 0.02
