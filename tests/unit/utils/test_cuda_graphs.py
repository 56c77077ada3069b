"""Calls by graphs, with a recorder in the place of a GPU that runs the recorded call anew at each replay."""

from typing import NamedTuple

import torch
from torch import Tensor

from utils.cuda_graphs import MOST_GRAPHS, WARM_UP_CALLS, Graphs, copied, shapes_of


class Pair(NamedTuple):
    x: Tensor
    number: int


def record(function):
    result = function()
    return lambda: result.copy_(function()), result


def double(pair: Pair, y: Tensor) -> Tensor:
    return 2 * pair.x * pair.number + y


def test_a_replay_reads_the_inputs_of_its_own_call():
    graphs = Graphs("doubling", record)
    for number in range(WARM_UP_CALLS + 3):
        x, y = torch.full((2,), float(number)), torch.arange(2.0)
        assert torch.equal(graphs(double, Pair(x, 3), y), 6 * x + y)
        assert len(graphs) == (number >= WARM_UP_CALLS)


def test_other_shapes_and_numbers_have_graphs_of_their_own():
    graphs = Graphs("doubling", record)
    for _ in range(WARM_UP_CALLS + 1):
        for length, number in ((2, 3), (2, 4), (5, 3)):
            x = torch.randn(length)
            assert torch.equal(graphs(double, Pair(x, number), x), 2 * x * number + x)
    assert len(graphs) == 3


def test_beyond_the_most_graphs_calls_run_eagerly():
    graphs = Graphs("doubling", record)
    for length in range(1, MOST_GRAPHS + 4):
        for _ in range(WARM_UP_CALLS + 1):
            x = torch.randn(length)
            assert torch.equal(graphs(double, Pair(x, 1), x), 2 * x + x)
    assert len(graphs) == MOST_GRAPHS


def test_copies_share_no_memory_and_keep_their_kind():
    pair = Pair(torch.ones(2), 3)
    own = copied((pair, 1.5))
    own[0].x.zero_()
    assert isinstance(own[0], Pair)
    assert pair.x.sum() == 2
    assert own[0].number == 3
    assert own[1] == 1.5
    assert shapes_of(own) == shapes_of((pair, 1.5))
    assert shapes_of(pair) != shapes_of(Pair(torch.ones(2).bfloat16(), 3))
