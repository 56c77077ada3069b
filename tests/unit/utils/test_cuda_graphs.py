"""Calls by graphs, with a recorder in the place of a GPU that runs the recorded call anew at each replay."""

from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from utils.cuda_graphs import MOST_GRAPHS, WARM_UP_CALLS, Graphs, copied, shapes_of
from utils.distributed import finish


class Pair(NamedTuple):
    x: Tensor
    number: int


def record(function):
    result = finish(function())
    return lambda: result.copy_(finish(function())), result


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


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """What is done in turn, with a GPU's graphs replaced by what only says that it captures or replays."""
    done: list[str] = []

    class Graph:
        def __init__(self) -> None:
            self.number = sum(each.startswith("begin") for each in done)

        def replay(self) -> None:
            done.append(f"replay {self.number}")

    @contextmanager
    def capture(graph, pool, capture_error_mode):
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        done.append(f"begin {graph.number}")
        try:
            yield
        finally:
            done.append(f"end {graph.number}")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return done


def test_exchanges_lie_between_graphs_and_are_not_made_by_a_capture(events):
    def in_two_parts(x):
        y = 2 * x
        events.append("first part")
        yield lambda: (events.append("exchange"), y.add_(1))
        events.append("second part")
        return y

    graphs, x = Graphs("exchanging"), torch.ones(2)
    for _ in range(WARM_UP_CALLS):
        assert graphs.in_parts(in_two_parts, x).tolist() == [3, 3]
    assert events == WARM_UP_CALLS * ["first part", "exchange", "second part"]
    events.clear()
    capture = ["begin 0", "first part", "end 0", "begin 1", "second part", "end 1"]
    replay = ["replay 0", "exchange", "replay 1"]
    graphs.in_parts(in_two_parts, x)
    assert events == capture + replay
    graphs.in_parts(in_two_parts, x)
    assert events == capture + replay + replay
    assert len(graphs) == 1


def test_a_call_without_exchanges_is_one_graph(events):
    graphs, x = Graphs("doubling"), torch.ones(2)
    for _ in range(WARM_UP_CALLS + 2):
        assert graphs(double, Pair(x, 1), x).tolist() == [3, 3]
    assert events == ["begin 0", "end 0", "replay 0", "replay 0"]


def test_a_capture_that_fails_in_a_later_part_exchanges_once(events, caplog):
    def in_two_parts(x):
        yield lambda: events.append("exchange")
        if "begin 1" in events and "end 1" not in events:
            raise RuntimeError("not permitted")
        return x + 1

    graphs, x = Graphs("exchanging"), torch.ones(2)
    for _ in range(WARM_UP_CALLS + 2):
        assert graphs.in_parts(in_two_parts, x).tolist() == [2, 2]
    assert events.count("exchange") == WARM_UP_CALLS + 2
    assert [record.getMessage() for record in caplog.records] == [
        "exchanging cannot be captured as a CUDA graph and runs eagerly: not permitted"
    ]
