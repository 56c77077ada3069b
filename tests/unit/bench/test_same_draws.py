"""Two steps whose weights differ in the last digit make the same draws."""

import torch

import losses.mrtd
from bench.same_draws import SameDraws

WEIGHTS = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))


def draw(weights):
    return losses.mrtd.draw_index(weights)


def test_later_steps_take_the_draws_of_the_first():
    draws = SameDraws()
    torch.manual_seed(1)
    with draws.of_a_step():
        first, after = draw(WEIGHTS), torch.rand(3)
    assert (draws.number, draws.others) == (500, 0)
    torch.manual_seed(1)
    with draws.of_a_step():
        second = draw(WEIGHTS + 0.01)
        assert torch.equal(torch.rand(3), after)
    assert torch.equal(second, first)
    assert 0 < draws.others < 50
    torch.manual_seed(1)
    assert (draw(WEIGHTS + 0.01) != first).sum() == draws.others  # outside, everybody draws for himself


def test_a_step_that_rounds_its_number_of_words_up_draws_the_rest_itself():
    draws = SameDraws()
    with draws.of_a_step():
        first, after = draw(WEIGHTS[:300]), torch.rand(3)
    with draws.of_a_step():
        second = draw(WEIGHTS)
        assert torch.equal(torch.rand(3), after)
    assert torch.equal(second[:300], first)
    assert len(second) == 500
