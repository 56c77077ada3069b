"""CUDA graphs of a function: one launch for thousands of kernels.

A graph replays the same kernels on the same memory. So there is one graph for each set of shapes, and its inputs lie in
tensors of its own. The first calls with a set of shapes run eagerly; they also compile kernels and allocate what stays.
All graphs of a function share one pool of memory, since only one runs at a time.

What several processes exchange in the middle of a function lies between graphs: it runs eagerly at each replay, on the
memory that the graphs around it write and read. So it does not matter whether another process replays, captures or
runs eagerly at that moment: all exchange the same, in the same order.

Source: PyTorch, "CUDA Graphs", whole-network capture.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from utils.distributed import Exchanging, finish
from utils.memory import available_bytes, pool_bytes
from utils.signals import StopAsked

logger = logging.getLogger(__name__)

T = TypeVar("T")
Recorder = Callable[[Callable[[], Exchanging[Any]]], tuple[Callable[[], None], Any]]

WARM_UP_CALLS = 3  # eager calls with a set of shapes before its graph is captured
MOST_GRAPHS = 100  # further sets of shapes run eagerly: a graph takes some ten MB, and its capture the time of a call
GIB = 2**30

_ABANDONED: list[torch.cuda.CUDAGraph] = []  # kept, since before torch 2.13 the allocator of pinned memory may ask them


class Recording(NamedTuple):
    """A captured call."""

    inputs: Any  # what it reads
    replay: Callable[[], None]
    result: Any  # what it writes


class Graphs:
    """Calls a function, by replaying a graph where there is one for the shapes of its inputs.

    The function must not wait for the GPU, and all that changes between calls must lie on the device. A capture that
    fails, or leaves no memory for eager calls, is reported in one line. Then all graphs are dropped, and all further
    calls run eagerly.

    Args:
        name: of the function, for that line.
        record: captures the parts of a function of no arguments, and returns how to replay them with what is exchanged
            in between, and what the function returned. It exchanges nothing itself.
    """

    def __init__(self, name: str, record: Recorder | None = None) -> None:
        self._name = name
        self._record = record or _PoolRecorder()
        self._recordings: dict[Any, Recording] = {}
        self._eager_calls: Counter[Any] = Counter()
        self._failed = False
        self.replays = 0  # calls so far that were replayed

    def __len__(self) -> int:
        """Graphs that there are."""
        return len(self._recordings)

    def __call__(self, function: Callable[..., T], *inputs: Any) -> T:
        """function(*inputs). The next call overwrites the tensors of the result.

        Args: inputs: tensors, numbers, and named tuples of them.
        """

        def whole(*inputs: Any) -> Exchanging[T]:
            yield from ()
            return function(*inputs)

        return self.in_parts(whole, *inputs)

    def in_parts(self, function: Callable[..., Exchanging[T]], *inputs: Any) -> T:
        """The same for a function with exchanges."""
        key = shapes_of(inputs)
        if key not in self._recordings:
            if self._runs_eagerly(key):
                self._eager_calls[key] += 1
                return finish(function(*inputs))
            if not self._capture(key, function, inputs):
                return finish(function(*inputs))
        recording = self._recordings[key]
        for own, new in zip(tensors_of(recording.inputs), tensors_of(inputs), strict=True):
            own.copy_(new, non_blocking=True)
        recording.replay()
        self.replays += 1
        return recording.result

    def _runs_eagerly(self, key: Any) -> bool:
        return self._failed or self._eager_calls[key] < WARM_UP_CALLS or len(self._recordings) >= MOST_GRAPHS

    def _capture(self, key: Any, function: Callable[..., Exchanging[Any]], inputs: tuple[Any, ...]) -> bool:
        own = copied(inputs)
        try:
            self._recordings[key] = Recording(own, *self._record(lambda: function(*own)))
            return True
        except StopAsked:
            raise
        except Exception as error:  # whatever a kernel or a library cannot do while it is captured
            self._failed = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("%s cannot be captured as a CUDA graph and runs eagerly: %s", self._name, reason)
        self._recordings.clear()
        torch.cuda.empty_cache()  # only now: the error held what was captured
        return False


class _PoolRecorder:
    """Captures on the GPU; all graphs take their memory from one pool.

    Only this thread may not do what a capture forbids: others read events of exchanges and pin memory for batches.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Exchanging[T]]) -> tuple[Callable[[], None], T]:
        parts, replayed = function(), list[Callable[[], object]]()

        def replay() -> None:
            for each in replayed:
                each()

        while True:
            graph = torch.cuda.CUDAGraph()
            exchange = None
            with _capturing(graph, self._pool):
                try:
                    exchange = next(parts)
                except StopIteration as end:
                    result = end.value
            replayed.append(graph.replay)
            if exchange is None:
                self._check_room()
                return replay, result
            replayed.append(exchange)

    def _check_room(self) -> None:
        """Raises: RuntimeError if the next eager call, which needs as much as the graphs hold, does not fit beside."""
        device = torch.device("cuda", torch.cuda.current_device())
        held, left = pool_bytes(device, self._pool), available_bytes(device)
        if held > left:
            raise RuntimeError(
                f"graphs hold {held / GIB:.1f} GiB, and an eager call does not fit into the {left / GIB:.1f} GiB left"
            )


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: "torch.cuda._POOL_HANDLE") -> Iterator[None]:
    """Capture what runs inside. If that fails, eager work can go on.

    torch.cuda.graph cleans up only if it can end the capture, and it cannot once something forbidden was done in it.

    Raises: the first error inside, instead of those that follow from it.
    """
    stream = torch.cuda.current_stream()
    first: BaseException | None = None
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            try:
                yield
            except BaseException as error:
                first = error
    except BaseException as error:
        first = first or error
    if first is None:
        return
    try:
        _abandon(graph, pool, stream)
        raise first
    finally:
        del first  # an error that its own frame holds would keep what was captured


def _abandon(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
    """Bring the allocator, the random generator and the current stream back to eager work."""
    _ABANDONED.append(graph)
    with suppress(RuntimeError):
        graph.reset()
    with suppress(RuntimeError):  # torch has ended it, from 2.13 on always
        torch._C._cuda_endAllocateToPool(stream.device_index, pool)
    # Before torch 2.13 the generator refuses eager draws until a capture has ended well: here a tiny one. A new state
    # of the generator would help too, but not the graphs of other functions, which keep the old one.
    with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        torch.zeros(1, device=stream.device)
    torch.cuda.set_stream(stream)


def shapes_of(value: Any) -> Any:
    """What decides which kernels run: shapes and dtypes of the tensors of a tuple, however nested, and its numbers."""
    if isinstance(value, Tensor):
        return (*value.shape, value.dtype)
    return tuple(map(shapes_of, value)) if isinstance(value, tuple) else value


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a tuple, however nested."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for field in value for tensor in tensors_of(field)] if isinstance(value, tuple) else []


def copied(value: Any) -> Any:
    """The same tuple with tensors of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if not isinstance(value, tuple):
        return value
    fields = map(copied, value)
    return type(value)(*fields) if hasattr(value, "_fields") else tuple(fields)
