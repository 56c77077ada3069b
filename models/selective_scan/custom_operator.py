"""Differentiable custom operators for the backends that have kernels of their own.

A backend implements `ScanPasses`. `scan_operator` registers its passes as mamba_tbps::NAME and
mamba_tbps::NAME_backward: torch.compile and torch.export see two opaque nodes with gradients. The arguments of an
operator are a flat list of tensors and plain numbers, so a `Scan` is flattened before the call and restored in it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.selective_scan.directions import Direction, Scan
from models.selective_scan.reference import scan_reference

# The arguments beside the tensors. `reverse` is that of the first direction; the last three are fields of `Scan`.
OPTIONS = "bool has_D, bool has_delta_bias, bool has_z, bool reverse, bool delta_softplus, bool log_A, float scale"


class Kept(NamedTuple):
    """What the forward pass keeps for the backward pass. A tensor that is not needed is empty."""

    y: Tensor  # the directions' sum before the gate
    states: Tensor  # float32, the states before each chunk of steps


class Gradients(NamedTuple):
    """Gradients of the fields of `Direction`, with the directions as first axis, and of z.

    Those of D and delta_bias are ignored where the scan has none.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor
    z: Tensor


class ScanPasses(ABC):
    """What a backend implements. Only the tensors that `gradients` returns may share memory."""

    dtypes: tuple[torch.dtype, ...]  # of u, delta and z that the kernels can read

    def prepare(self, scan: Scan) -> Scan:
        """Convert the tensors to dtypes and memory orders that the kernels can read. Autograd records this."""
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
        """Uninitialised tensors like those that `forward` returns."""

    @abstractmethod
    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        """The output and, if `keep`, what `backward` needs."""

    @abstractmethod
    def empty_gradients(self, scan: Scan) -> list[Tensor]:
        """Uninitialised tensors like those that `backward` returns."""

    @abstractmethod
    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept) -> list[Tensor]:
        """The gradients, in whatever tensors the kernels write."""

    @abstractmethod
    def gradients(self, results: list[Tensor]) -> Gradients:
        """The gradients as views of what `backward` returned."""


def scan_operator(name: str, passes: ScanPasses, device_types: str | None = None) -> Callable[[Scan], Tensor]:
    """Register the operators and return the function that computes a scan by them.

    Args: device_types: the device on which the kernels run; None for any.
    """
    forward = _forward_operator(name, passes, device_types)
    backward = _backward_operator(f"{name}_backward", passes, device_types)
    forward.register_autograd(partial(_differentiate, passes, backward), setup_context=_keep_for_backward)

    def scan_by_operator(scan: Scan) -> Tensor:
        if scan.is_empty:  # kernels cannot be launched without work
            return scan_reference(scan)
        tensors, options = flatten(passes.prepare(scan))
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        return forward(keep, tensors, *options)[0]

    return scan_by_operator


def _forward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(keep, tensors, *options) -> (out, y, states)."""

    def forward(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.forward(_restored(tensors, *options), keep)
        return out, *kept

    def fake(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.empty_outputs(_restored(tensors, *options), keep)
        return out, *kept

    schema = f"(bool keep, Tensor[] tensors, {OPTIONS}) -> (Tensor, Tensor, Tensor)"
    return _operator(name, forward, fake, schema, device_types)


def _backward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(grad_out, y, states, tensors, *options) -> results of `passes.backward`."""

    def backward(grad_out: Tensor, y: Tensor, states: Tensor, tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
        assert states.numel() > 0, "the forward pass has kept no states"
        return passes.backward(_restored(tensors, *options), grad_out, Kept(y, states))

    def fake(grad_out: Tensor, y: Tensor, states: Tensor, tensors: Sequence[Tensor], *options: Any) -> list[Tensor]:
        return passes.empty_gradients(_restored(tensors, *options))

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


def flatten(scan: Scan) -> tuple[list[Tensor], tuple[Any, ...]]:
    """(tensors, OPTIONS)."""
    first = scan.directions[0]
    assert all(each.reverse != first.reverse for each in scan.directions[1:]), "two directions run opposite ways"
    flags = (first.D is not None, first.delta_bias is not None, scan.z is not None, first.reverse)
    return scan.tensors, (*flags, scan.delta_softplus, scan.log_A, scan.scale)


def _restored(
    tensors: Sequence[Tensor],
    has_D: bool,
    has_delta_bias: bool,
    has_z: bool,
    reverse: bool,
    delta_softplus: bool,
    log_A: bool,
    scale: float,
) -> Scan:
    """The reverse of `flatten`."""
    of_directions, z = (tensors[:-1], tensors[-1]) if has_z else (tensors, None)
    size, directions = 5 + has_D + has_delta_bias, []
    for start in range(0, len(of_directions), size):
        u, delta, A, B, C, *rest = of_directions[start : start + size]
        D, delta_bias = rest[0] if has_D else None, rest[-1] if has_delta_bias else None
        directions.append(Direction(u, delta, A, B, C, D, delta_bias, reverse=reverse != (start > 0)))
    return Scan(tuple(directions), z, delta_softplus, log_A, scale)
