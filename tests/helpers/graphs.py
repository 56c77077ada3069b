"""A recorder in the place of a GPU's: it runs the recorded call anew at each replay."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from utils.distributed import Exchanging, finish


class MemoryRead(TorchDispatchMode):
    """Notes the memory that a call finds when it begins: what it reads or writes and has not allocated itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}  # kept, so that no later tensor gets the same address
        self._own: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_number = func is torch.ops.aten.lift_fresh.default  # torch.tensor(1.0): a kernel gets it by value
        for each in _tensors((args, kwargs)):
            address = each.untyped_storage().data_ptr()
            if address not in self._own and not is_number:
                self.found.setdefault(address, each)
        result = func(*args, **(kwargs or {}))
        for each in _tensors(result):
            address = each.untyped_storage().data_ptr()
            if address not in self.found:
                self._own.add(address)
        return result


class Recorder:
    """Leaves modules and random numbers as they were and exchanges nothing, as a capture does.

    A replay must find the same memory as the recorded call did: a graph can read no other.
    """

    def __init__(self, modules: Sequence[nn.Module | torch.optim.Optimizer] = ()) -> None:
        self.modules = modules
        self.replays = 0

    def __call__(self, function: Callable[[], Exchanging[Any]]) -> tuple[Callable[[], None], Any]:
        before = [(tensor, tensor.clone()) for module in self.modules for tensor in _tensors(module.state_dict())]
        random_state = torch.get_rng_state()
        with MemoryRead() as recorded:
            result = without_exchanges(function())
        for tensor, content in before:
            tensor.detach().copy_(content)
        torch.set_rng_state(random_state)

        def replay() -> None:
            self.replays += 1
            with MemoryRead() as replayed:
                again = finish(function())
            other = [tuple(each.shape) for place, each in replayed.found.items() if place not in recorded.found]
            assert not other, f"a graph would not have read tensors of the shapes {other}"
            for own, new in zip(_tensors(result), _tensors(again), strict=True):
                own.copy_(new)

        return replay, result


def without_exchanges(parts: Exchanging[Any]) -> Any:
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


def _tensors(value: Any) -> list[Tensor]:
    """In tuples, lists and dictionaries, however nested; torch's own way takes longer than most operators."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for each in value for tensor in _tensors(each)]
