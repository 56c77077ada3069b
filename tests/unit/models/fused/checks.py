"""What the tests of all fused operators need."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = ("view", "detach", "expand", "select", "unbind", "slice", "t", "transpose", "alias", "_unsafe_view")


class Dispatched(TorchDispatchMode):
    """Names of the operators dispatched, views left out: on a GPU most of them are a launch each."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.name().split("::")[1].split(".")[0]
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor], seed: int = 1) -> tuple[Tensor | None, ...]:
    """Of a random weighted sum of the outputs."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=generator).to(x) for x in outputs]
    return torch.autograd.grad(outputs, inputs, weights, allow_unused=True)


def operators_of(function: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> tuple[list[str], list[str]]:
    """Operators dispatched in the forward and in the backward pass."""
    with Dispatched() as forward:
        outputs = function()
    grads = [torch.ones_like(x) for x in outputs]
    with Dispatched() as backward:
        torch.autograd.grad(outputs, inputs, grads)
    return forward.names, backward.names


def assert_near(got: Sequence[Tensor | None], want: Sequence[Tensor | None], tolerance: float) -> None:
    """Each result near the wanted one: relative to the element, and to the largest element for sums that cancel."""
    for number, (x, y) in enumerate(zip(got, want, strict=True)):
        assert (x is None) == (y is None), number
        if x is not None and y is not None:
            largest = y.abs().max().item() if y.numel() else 0.0
            torch.testing.assert_close(
                x.detach().cpu().double(),
                y.detach().cpu().double(),
                rtol=tolerance,
                atol=tolerance * largest,
                msg=lambda text, number=number: f"result {number}: {text}",
            )
