"""Operators that a piece of code dispatches: what a GPU would launch, more or less."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What launches nothing: views that torch does not mark as such, allocations, questions about dtypes
NO_LAUNCH = frozenset(
    {
        *("_unsafe_view", "detach", "lift_fresh", "_reshape_alias", "promote_types", "scalar_tensor"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    }
)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if func.namespace != "profiler" and not func.is_view and name not in NO_LAUNCH:
            self.calls.append((name, [_described(leaf) for leaf in tree_leaves((args, kwargs, result))]))
        return result


def _described(value: Any) -> Any:
    """Shape, strides and dtype of a tensor; numbers as they are."""
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, Tensor) else value


@contextmanager
def dispatched() -> Iterator[Counter[str]]:
    """Counts operators by name, forward and backward. An operator within one does not count."""
    counts: Counter[str] = Counter()
    with _Recorder() as recorder:
        yield counts
    counts.update(name for name, _ in recorder.calls)


@contextmanager
def signatures() -> Iterator[list[tuple[str, Any]]]:
    """Lists operators in their order, each with the shapes, strides and dtypes of its tensors, and its numbers."""
    calls: list[tuple[str, Any]] = []
    with _Recorder() as recorder:
        yield calls
    calls += recorder.calls
