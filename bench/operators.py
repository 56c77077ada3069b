"""How many operators a call dispatches: on a GPU, each launches about one kernel."""

from collections import Counter
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {"_unsafe_view"}  # views that the schema does not call so


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that are dispatched within it by name, backward passes included and views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))
