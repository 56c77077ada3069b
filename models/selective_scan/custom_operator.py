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
    """Gradients of most fields of `Direction`, with the directions as first axis.

    Those of D and delta_bias are ignored where the scan has none.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    D: Tensor
    delta_bias: Tensor


class Targets(NamedTuple):
    """Memory of the caller, of any strides, for the other gradients: they lie side by side with others of the layer."""

    z: Tensor | None  # (batch, length, dim), z's dtype
    BC: Tensor  # (directions, 2, batch, groups, length, state), any float dtype


class ScanPasses(ABC):
    """What a backend implements. No two of the tensors that it returns may share memory.

    `forward` and `backward` take u, delta, z, B and C in any of `dtypes` and the parameters in float32.
    """

    dtypes: tuple[torch.dtype, ...]

    def prepare(self, scan: Scan) -> Scan:
        """Convert the tensors to dtypes and memory orders that the passes can read. Autograd records this."""
        directions = tuple(
            each._replace(
                delta=self._readable(each.delta),
                A=each.A.float().contiguous(),
                B=self._readable(each.B),
                C=self._readable(each.C),
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

    def empty_gradients(self, scan: Scan) -> Gradients:
        """Uninitialised tensors like those that `backward` returns."""
        (u, delta, A, *_), directions = scan.directions[0], len(scan.directions)
        of_channels = (A.new_empty((directions, A.shape[0])) for _ in range(2))
        return Gradients(
            u.new_empty((directions, *u.shape)),
            delta.new_empty((directions, *u.shape)),
            A.new_empty((directions, *A.shape)),
            *of_channels,
        )

    @abstractmethod
    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept, targets: Targets) -> Gradients:
        """The gradients; the others go into `targets`."""


class ScanOperator:
    """The operators of a backend. Called with a `Scan`, it computes it, differentiably.

    Args: device_types: the device on which the kernels run; None for any.
    """

    def __init__(self, name: str, passes: ScanPasses, device_types: str | None = None) -> None:
        self.passes = passes
        self._forward = _forward_operator(name, passes, device_types)
        self._backward = _backward_operator(f"{name}_backward", passes, device_types)
        self._forward.register_autograd(partial(_differentiate, self), setup_context=_keep_for_backward)

    def __call__(self, scan: Scan) -> Tensor:
        if scan.is_empty:  # kernels cannot be launched without work
            return scan_reference(scan)
        scan = self.passes.prepare(scan)
        keep = torch.is_grad_enabled() and any(x.requires_grad for x in scan.tensors)
        return self.forward(scan, keep)[0]

    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        """`ScanPasses.forward` by its operator; the scan is prepared and not empty."""
        tensors, options = flatten(scan)
        out, *kept = self._forward(keep, tensors, *options)
        return out, Kept(*kept)

    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept, targets: Targets) -> Gradients:
        """`ScanPasses.backward` by its operator."""
        tensors, options = flatten(scan)
        return Gradients(*self._backward(grad_out, *kept, *targets, tensors, *options))


def _forward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(keep, tensors, *options) -> (out, y, states)."""

    def forward(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.forward(restored(tensors, *options), keep)
        return out, *kept

    def fake(keep: bool, tensors: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
        out, kept = passes.empty_outputs(restored(tensors, *options), keep)
        return out, *kept

    schema = f"(bool keep, Tensor[] tensors, {OPTIONS}) -> (Tensor, Tensor, Tensor)"
    return _operator(name, forward, fake, schema, device_types)


def _backward_operator(name: str, passes: ScanPasses, device_types: str | None) -> Any:
    """(grad_out, y, states, grad_z, grad_BC, tensors, *options) -> what `passes.backward` returns."""

    def backward(
        grad_out: Tensor,
        y: Tensor,
        states: Tensor,
        grad_z: Tensor | None,
        grad_BC: Tensor,
        tensors: Sequence[Tensor],
        *options: Any,
    ) -> tuple[Tensor, ...]:
        assert states.numel() > 0, "the forward pass has kept no states"
        return passes.backward(restored(tensors, *options), grad_out, Kept(y, states), Targets(grad_z, grad_BC))

    def fake(
        grad_out: Tensor,
        y: Tensor,
        states: Tensor,
        grad_z: Tensor | None,
        grad_BC: Tensor,
        tensors: Sequence[Tensor],
        *options: Any,
    ) -> tuple[Tensor, ...]:
        return passes.empty_gradients(restored(tensors, *options))

    targets = "Tensor(a!)? grad_z, Tensor(b!) grad_BC"
    results = ", ".join(["Tensor"] * len(Gradients._fields))  # a list cannot be compiled beside targets
    schema = f"(Tensor grad_out, Tensor y, Tensor states, {targets}, Tensor[] tensors, {OPTIONS}) -> ({results})"
    return _operator(name, backward, fake, schema, device_types, mutates_args=("grad_z", "grad_BC"))


def _operator(
    name: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    schema: str,
    device_types: str | None,
    mutates_args: Sequence[str] = (),
) -> Any:
    operator = torch.library.custom_op(
        f"mamba_tbps::{name}", function, mutates_args=mutates_args, schema=schema, device_types=device_types
    )
    operator.register_fake(fake)
    return operator


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, tensors, *ctx.options = inputs
    ctx.save_for_backward(*output[1:], *tensors)
    ctx.set_materialize_grads(False)


def _differentiate(operator: ScanOperator, ctx: Any, grad_out: Tensor | None, *of_kept: None) -> tuple[Any, ...]:
    """Gradients of the forward operator's arguments: `keep`, the tensors in their order, the options."""
    y, states, *tensors = ctx.saved_tensors
    no_gradients = [None] * len(ctx.options)
    if grad_out is None:
        return None, [None] * len(tensors), *no_gradients
    scan = restored(tensors, *ctx.options)
    B = scan.directions[0].B
    grad_BC = B.new_empty((len(scan.directions), 2, *B.shape))
    targets = Targets(None if scan.z is None else torch.empty_like(scan.z), grad_BC)
    u, delta, A, D, delta_bias = operator.backward(scan, grad_out, Kept(y, states), targets)
    grads = []
    for d, direction in enumerate(scan.directions):
        grads += [u[d], delta[d], A[d], *grad_BC[d]]
        grads += [] if direction.D is None else [D[d]]
        grads += [] if direction.delta_bias is None else [delta_bias[d]]
    grads += [] if targets.z is None else [targets.z]
    return None, grads, *no_gradients


def flatten(scan: Scan) -> tuple[list[Tensor], tuple[Any, ...]]:
    """(tensors, OPTIONS)."""
    first = scan.directions[0]
    assert all(each.reverse != first.reverse for each in scan.directions[1:]), "two directions run opposite ways"
    flags = (first.D is not None, first.delta_bias is not None, scan.z is not None, first.reverse)
    return scan.tensors, (*flags, scan.delta_softplus, scan.log_A, scan.scale)


def restored(
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
