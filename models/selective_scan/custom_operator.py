"""The differentiable custom operator that the backends with kernels of their own share.

A backend describes its kernels as `ScanPasses`; `scan_operator` registers them as mamba_tbps::NAME and
mamba_tbps::NAME_backward, so torch.compile and torch.export see two opaque nodes with gradients. Operators take flat
lists of tensors and plain numbers, hence the translation of a `Scan` into such arguments and back.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.selective_scan.directions import Direction, Scan
from models.selective_scan.reference import scan_reference

# What goes with the list of tensors; the last three as `Scan` has them, `reverse` for the first direction.
OPTIONS = "bool has_D, bool has_delta_bias, bool has_z, bool reverse, bool delta_softplus, bool log_A, float scale"


class Kept(NamedTuple):
    """What the forward pass keeps for the backward pass; empty tensors where there is nothing to keep."""

    y: Tensor  # the directions' sum before the gate
    states: Tensor  # float32, the states before each chunk of steps


class Gradients(NamedTuple):
    """Of the loss: each entry but z with the directions as its first axis, in the order of `Direction`'s tensors."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor
    z: Tensor


class ScanPasses(ABC):
    """What a backend provides. Tensors that a method returns must not share memory, except those of `gradients`."""

    dtypes: tuple[torch.dtype, ...]  # of u, delta and z that the kernels read as they are

    def prepare(self, scan: Scan) -> Scan:
        """The same scan in dtypes and memory orders that the kernels take; differentiable."""
        directions = tuple(
            each._replace(
                delta=self._readable(each.delta),
                A=each.A.float().contiguous(),
                B=each.B.float(),
                C=each.C.float(),
                D=None if each.D is None else each.D.float().contiguous(),
                delta_bias=None if each.delta_bias is None else each.delta_bias.float().contiguous(),
            )
            for each in scan.directions
        )
        return scan._replace(directions=directions, z=None if scan.z is None else self._readable(scan.z))

    def _readable(self, x: Tensor) -> Tensor:
        return x if x.dtype in self.dtypes else x.float()

    @abstractmethod
    def empty_outputs(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        """The output and what is kept, not computed yet."""

    @abstractmethod
    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        """The output, and what `backward` needs if `keep`."""

    @abstractmethod
    def empty_gradients(self, scan: Scan) -> list[Tensor]:
        """Tensors shaped like those of `backward`."""

    @abstractmethod
    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept) -> list[Tensor]:
        """The tensors in which the kernels leave the gradients."""

    @abstractmethod
    def gradients(self, results: list[Tensor]) -> Gradients:
        """Views of the tensors of `backward`."""


def scan_operator(name: str, passes: ScanPasses, device_types: str | None = None) -> Callable[[Scan], Tensor]:
    """Register the operators and return the backend's scan. device_types: where the kernels run, None for anywhere."""
    forward = _forward_operator(name, passes, device_types)
    backward = _backward_operator(f"{name}_backward", passes, device_types)
    forward.register_autograd(partial(_differentiate, passes, backward), setup_context=_keep_for_backward)

    def scan_by_operator(scan: Scan) -> Tensor:
        if scan.is_empty:  # kernels need work to do, and sums over the batch a first term
            return scan_reference(scan)
        tensors, options = _flat(passes.prepare(scan))
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        return forward(keep, tensors, *options)[0]

    return scan_by_operator


def _forward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(keep, tensors, *options) -> (out, y, states)."""

    def forward(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.forward(_scan_of(tensors, *options), keep)
        return out, *kept

    def fake(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.empty_outputs(_scan_of(tensors, *options), keep)
        return out, *kept

    schema = f"(bool keep, Tensor[] tensors, {OPTIONS}) -> (Tensor, Tensor, Tensor)"
    return _operator(name, forward, fake, schema, device_types)


def _backward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(grad_out, y, states, tensors, *options) -> results of `passes.backward`."""

    def backward(grad_out: Tensor, y: Tensor, states: Tensor, tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
        assert states.numel() > 0, "the forward pass has kept no states"
        return passes.backward(_scan_of(tensors, *options), grad_out, Kept(y, states))

    def fake(grad_out: Tensor, y: Tensor, states: Tensor, tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
        return passes.empty_gradients(_scan_of(tensors, *options))

    schema = f"(Tensor grad_out, Tensor y, Tensor states, Tensor[] tensors, {OPTIONS}) -> Tensor[]"
    return _operator(name, backward, fake, schema, device_types)


def _operator(
    name: str, function: Callable[..., Any], fake: Callable[..., Any], schema: str, device_types: str | None
) -> Any:
    operator = torch.library.custom_op(
        f"mamba_tbps::{name}", function, mutates_args=(), schema=schema, device_types=device_types
    )
    operator.register_fake(fake)
    return operator


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, tensors, *ctx.options = inputs
    ctx.save_for_backward(*output[1:], *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(
    passes: ScanPasses, backward: Any, ctx: Any, grad_out: Tensor | None, *of_kept: None
) -> tuple[Any, ...]:
    """Gradients of the forward operator's arguments: `keep`, the tensors in their order, the options."""
    y, states, *tensors = ctx.saved_tensors
    no_gradients = [None] * len(ctx.options)
    if grad_out is None:
        return None, [None] * len(tensors), *no_gradients
    has_D, has_delta_bias, has_z, *_ = ctx.options
    *stacked, grad_z = passes.gradients(backward(grad_out, y, states, tensors, *ctx.options))
    given = stacked[:5] + [stacked[5]] * has_D + [stacked[6]] * has_delta_bias
    grads = [grad for of_direction in zip(*(each.unbind() for each in given), strict=True) for grad in of_direction]
    return None, grads + [grad_z] * has_z, *no_gradients


def _flat(scan: Scan) -> tuple[list[Tensor], tuple[Any, ...]]:
    """All tensors, and OPTIONS."""
    first = scan.directions[0]
    assert all(each.reverse != first.reverse for each in scan.directions[1:]), "two directions run opposite ways"
    flags = (first.D is not None, first.delta_bias is not None, scan.z is not None, first.reverse)
    return scan.tensors, (*flags, scan.delta_softplus, scan.log_A, scan.scale)


def _scan_of(
    tensors: Sequence[Tensor],
    has_D: bool,
    has_delta_bias: bool,
    has_z: bool,
    reverse: bool,
    delta_softplus: bool,
    log_A: bool,
    scale: float,
) -> Scan:
    """The reverse of `_flat`."""
    of_directions, z = (tensors[:-1], tensors[-1]) if has_z else (tensors, None)
    size, directions = 5 + has_D + has_delta_bias, []
    for start in range(0, len(of_directions), size):
        u, delta, A, B, C, *rest = of_directions[start : start + size]
        D, delta_bias = rest[0] if has_D else None, rest[-1] if has_delta_bias else None
        directions.append(Direction(u, delta, A, B, C, D, delta_bias, reverse=reverse != (start > 0)))
    return Scan(tuple(directions), z, delta_softplus, log_A, scale)
