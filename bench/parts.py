"""Where a training step spends its time, forward and backward, by parts of the code that are given names."""

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

MARK = "part: "
BACKWARD = "autograd::engine::evaluate_function"
REST = "the rest"


def shares(
    run: Callable[[], object], parts: Mapping[str, Sequence[tuple[Any, str]]], device_type: str
) -> dict[str, float]:
    """Share of the time of `run` by part. REST is the time outside all parts; of nested parts, the outermost counts.

    Args:
        parts: the functions that make up each part by its name, as (object, attribute).
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device_type == "cuda" else [])
    with marked(parts), profile(activities=activities, acc_events=True) as profiler:
        run()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CPU]
    times: defaultdict[str, float] = defaultdict(float)
    part_of_node = _NodeParts(events)
    for event in events:
        own = event.self_device_time_total if device_type == "cuda" else event.self_cpu_time_total
        times[part_of_node.part_of(event)] += own
    total = sum(times.values())
    return {name: times[name] / total for name in (*parts, REST)}


@contextmanager
def marked(parts: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[None]:
    """Make the parts visible to the profiler."""
    with ExitStack() as opened:
        for name, functions in parts.items():
            for owner, attribute in functions:
                opened.enter_context(patch.object(owner, attribute, _marked(getattr(owner, attribute), name)))
        yield


def _marked(function: Callable, name: str) -> Callable:
    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + name):
            return function(*args, **kwargs)

    return run


class _NodeParts:
    """Tells which part an event belongs to.

    A forward event belongs to the part that it runs within. A backward event belongs to the part that made its node of
    the graph: autograd numbers the nodes in the order in which they are made.
    """

    def __init__(self, events: Sequence[Any]) -> None:
        made = sorted(
            (event.sequence_nr, self._outer(event) or REST)
            for event in events
            if event.sequence_nr >= 0 and not self._backward_root(event)
        )
        self._numbers, self._parts = [number for number, _ in made], [part for _, part in made]

    def part_of(self, event: Any) -> str:
        root = self._backward_root(event)
        if root is None:
            return self._outer(event) or REST
        place = bisect.bisect_right(self._numbers, root.sequence_nr)
        return self._parts[place - 1] if place and root.sequence_nr >= 0 else REST

    @staticmethod
    def _outer(event: Any) -> str | None:
        found = None
        while event is not None:
            if event.name.startswith(MARK):
                found = event.name.removeprefix(MARK)
            event = event.cpu_parent
        return found

    @staticmethod
    def _backward_root(event: Any) -> Any:
        while event is not None and not event.name.startswith(BACKWARD):
            event = event.cpu_parent
        return event
