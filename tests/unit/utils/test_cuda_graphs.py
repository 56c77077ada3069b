"""Calls by graphs, with a recorder in the place of a GPU that runs the recorded call anew at each replay."""

import gc
import os
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from utils import cuda_graphs
from utils.cuda_graphs import MOST_GRAPHS, WARM_UP_CALLS, Graphs, copied, shapes_of
from utils.distributed import finish
from utils.signals import StopAsked, StopSignals


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


class FakeGPU:
    """Says what is done in turn, and has so much memory."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.capturing = False
        self.invalid = False  # something forbidden was done in the capture
        self.held, self.left = 0, 0  # GiB

    def forbidden(self) -> None:
        if self.capturing:
            self.invalid = True
            raise RuntimeError("not permitted when stream is capturing\nmore of it")

    @contextmanager
    def capture(self, graph, pool=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        if pool is None:
            self.done.append("tiny capture")
            yield
            return
        self.done.append(f"begin {graph.number}")
        self.capturing = True
        try:
            yield
        finally:
            self.done.append(f"end {graph.number}")
            self.capturing = False
            if self.invalid:
                raise RuntimeError("operation failed due to a previous error during capture")


@pytest.fixture
def gpu(monkeypatch) -> Iterator[FakeGPU]:
    """With a GPU's graphs replaced by what only says that it captures or replays."""
    own = FakeGPU()
    stream = SimpleNamespace(device_index=0, device="cpu")

    class Graph:
        def __init__(self) -> None:
            self.number = sum(each.startswith("begin") for each in own.done)

        def replay(self) -> None:
            own.done.append(f"replay {self.number}")

        def reset(self) -> None:
            own.done.append(f"reset {self.number}")

    def end_allocation(device, pool):
        assert (device, pool) == (0, "pool")
        own.done.append("end allocation")
        raise RuntimeError("not recording to the pool")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", own.capture)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda given: own.done.append(f"old stream: {given is stream}"))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocation)
    monkeypatch.setattr(cuda_graphs, "pool_bytes", lambda device, pool: own.held * cuda_graphs.GIB)
    monkeypatch.setattr(cuda_graphs, "available_bytes", lambda device: own.left * cuda_graphs.GIB)
    monkeypatch.setattr(cuda_graphs, "_ABANDONED", [])
    yield own
    gc.enable()


CLEANED_UP = ["reset 0", "end allocation", "tiny capture", "old stream: True"]


def test_exchanges_lie_between_graphs_and_are_not_made_by_a_capture(gpu):
    def in_two_parts(x):
        y = 2 * x
        gpu.done.append("first part")
        yield lambda: (gpu.done.append("exchange"), y.add_(1))
        gpu.done.append("second part")
        return y

    graphs, x = Graphs("exchanging"), torch.ones(2)
    for _ in range(WARM_UP_CALLS):
        assert graphs.in_parts(in_two_parts, x).tolist() == [3, 3]
    assert gpu.done == WARM_UP_CALLS * ["first part", "exchange", "second part"]
    gpu.done.clear()
    capture = ["begin 0", "first part", "end 0", "begin 1", "second part", "end 1"]
    replay = ["replay 0", "exchange", "replay 1"]
    graphs.in_parts(in_two_parts, x)
    assert gpu.done == capture + replay
    graphs.in_parts(in_two_parts, x)
    assert gpu.done == capture + replay + replay
    assert len(graphs) == 1
    assert graphs.replays == 2


def test_a_call_without_exchanges_is_one_graph(gpu):
    graphs, x = Graphs("doubling"), torch.ones(2)
    for _ in range(WARM_UP_CALLS + 2):
        assert graphs(double, Pair(x, 1), x).tolist() == [3, 3]
    assert gpu.done == ["begin 0", "end 0", "replay 0", "replay 0"]


def test_a_capture_that_fails_in_a_later_part_exchanges_once(gpu, caplog):
    def in_two_parts(x):
        yield lambda: gpu.done.append("exchange")
        if "begin 1" in gpu.done and "end 1" not in gpu.done:
            raise RuntimeError("not permitted")
        return x + 1

    graphs, x = Graphs("exchanging"), torch.ones(2)
    for _ in range(WARM_UP_CALLS + 2):
        assert graphs.in_parts(in_two_parts, x).tolist() == [2, 2]
    assert gpu.done.count("exchange") == WARM_UP_CALLS + 2
    assert [record.getMessage() for record in caplog.records] == [
        "exchanging cannot be captured as a CUDA graph and runs eagerly: not permitted"
    ]


def test_an_invalid_capture_is_cleaned_up_and_its_own_error_is_told(gpu, caplog):
    computed: list[weakref.ref[Tensor]] = []

    def forbidden(x):
        y = x + 1
        computed.append(weakref.ref(y))
        gpu.forbidden()
        return y

    graphs, x = Graphs("reading"), torch.ones(2)
    gc.disable()
    for _ in range(WARM_UP_CALLS + 2):
        assert graphs(forbidden, x).tolist() == [2, 2]
    assert [kept() for kept in computed] == [None] * len(computed)  # on a GPU, their memory is needed at once
    assert gpu.done == ["begin 0", "end 0", *CLEANED_UP]
    assert [record.getMessage() for record in caplog.records] == [
        "reading cannot be captured as a CUDA graph and runs eagerly: not permitted when stream is capturing"
    ]


def test_a_capture_that_only_its_end_finds_invalid_is_told_so(gpu, caplog):
    def silently(x):
        with suppress(RuntimeError):
            gpu.forbidden()
        return x + 1

    graphs, x = Graphs("reading"), torch.ones(2)
    for _ in range(WARM_UP_CALLS + 1):
        assert graphs(silently, x).tolist() == [2, 2]
    assert gpu.done[-len(CLEANED_UP) :] == CLEANED_UP
    assert caplog.records[0].getMessage().endswith("operation failed due to a previous error during capture")


@pytest.mark.parametrize("invalid", [True, False])
def test_a_signal_during_a_capture_ends_the_call(gpu, invalid, caplog):
    def signalled(x):
        if gpu.capturing:
            gpu.invalid = invalid
            os.kill(os.getpid(), signal.SIGTERM)
        return x + 1

    graphs, x = Graphs("encoding"), torch.ones(2)
    with StopSignals() as signals, signals.at_once():
        for _ in range(WARM_UP_CALLS):
            graphs(signalled, x)
        with pytest.raises(StopAsked):
            graphs(signalled, x)
    assert gpu.done == ["begin 0", "end 0", *CLEANED_UP]
    assert caplog.records == []


def test_graphs_that_leave_no_memory_for_eager_calls_are_dropped(gpu, caplog):
    graphs, short, long = Graphs("doubling"), torch.ones(2), torch.ones(3)
    gpu.held, gpu.left = 4, 4
    for _ in range(WARM_UP_CALLS + 1):
        assert graphs(double, Pair(short, 1), short).tolist() == [3, 3]
    assert len(graphs) == 1
    gpu.held, gpu.left = 5, 3
    for _ in range(WARM_UP_CALLS + 2):
        for x in (long, short):
            assert graphs(double, Pair(x, 1), x).tolist() == [3] * len(x)
    assert len(graphs) == 0
    assert gpu.done[-1] == "end 1"
    (record,) = caplog.records
    assert record.getMessage() == (
        "doubling cannot be captured as a CUDA graph and runs eagerly: "
        "graphs hold 5.0 GiB, and an eager call does not fit into the 3.0 GiB left"
    )


@pytest.mark.gpu
def test_after_a_capture_that_failed_a_gpu_goes_on(caplog):
    def drawing(x):
        return x + torch.rand(3, device=x.device)

    def reading(x):
        return drawing(x) + x.sum().item()

    stream, x = torch.cuda.current_stream(), torch.ones(3, device="cuda")
    before, failing = Graphs("drawing"), Graphs("reading")
    for _ in range(WARM_UP_CALLS + 1):
        before(drawing, x)
    assert len(before) == 1
    for _ in range(WARM_UP_CALLS + 2):
        assert (failing(reading, x) >= 4).all()
    (record,) = caplog.records
    assert "previous error" not in record.getMessage()
    assert torch.cuda.current_stream() == stream
    assert not torch.equal(torch.rand(9, device="cuda"), torch.rand(9, device="cuda"))
    assert not torch.equal(before(drawing, x).clone(), before(drawing, x))
    again = Graphs("drawing")
    for _ in range(WARM_UP_CALLS + 1):
        again(drawing, x)
    assert len(again) == 1
