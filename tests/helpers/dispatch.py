"""Operators that a piece of code dispatches: what a GPU would launch, more or less."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = frozenset({"_unsafe_view", "detach", "lift_fresh", "_reshape_alias"})  # not all are marked as views by torch


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def dispatched() -> Iterator[Counter[str]]:
    """Counts operators by name, forward and backward; views are left out. An operator within one does not count."""
    with _Counter() as counter:
        yield counter.counts
