"""Selective scan by our own Triton kernels (triton_kernels.py): float32 arithmetic on float32, bfloat16 or float16.

One launch scans one direction or both. Registered as the custom operators mamba_tbps::triton_scan and
mamba_tbps::triton_scan_backward, so torch.compile and torch.export see two opaque nodes with gradients. Every digit is
the same from run to run: programs write partial sums, which a second step adds in a fixed order.

With TRITON_INTERPRET=1 in the environment before the start, Triton runs the kernels on the CPU: slowly, for tests.
"""

import contextlib
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.reference import selective_scan_reference
from models.selective_scan.self_test import trouble
from models.selective_scan.triton_tiles import (
    MAX_STATE,
    grid_of,
    kept_shape,
    pairs,
    tile_sizes,
    tiles,
    untiled,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LANES_FORWARD, LANES_BACKWARD = 1, 2  # threads that share a channel's states: sums over these, and over channels


def obstacle(device_type: str, dtype: torch.dtype, state: int) -> str | None:
    """Why the kernels cannot work on such tensors, or None where they can. The first call with a GPU tries them."""
    if device_type != "cuda" and not (device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"it needs tensors on a GPU, not on {device_type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if dtype not in DTYPES:
        return f"it computes in float32 and takes float32, bfloat16 or float16, not {dtype}"
    if state > MAX_STATE:
        return f"it keeps at most {MAX_STATE} states per channel, not {state}"
    return trouble(selective_scan_triton, device_type) if device_type == "cuda" else None


def selective_scan_triton(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    """As `selective_scan_reference`, but u must be of a dtype in DTYPES. What is not channel-last is copied."""
    if u.numel() == 0:  # no program would run, and gradients of A, D and delta_bias must still be zeros
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    out = scan_directions(
        [u.transpose(1, 2)],
        [delta.transpose(1, 2)],
        [A],
        [B.transpose(2, 3)],
        [C.transpose(2, 3)],
        [] if D is None else [D],
        [] if delta_bias is None else [delta_bias],
        None if z is None else z.transpose(1, 2),
        delta_softplus=delta_softplus,
        reverse=reverse,
    ).transpose(1, 2)
    return out if u.stride(1) <= u.stride(2) else out.contiguous()


def scan_directions(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor | None,
    *,
    delta_softplus: bool = True,
    log_A: bool = False,
    reverse: bool = False,
    scale: float = 1.0,
) -> Tensor:
    """scale * silu(z) * the sum over one or two directions, of which the first is backwards in time if `reverse`.

    Args, a list entry per direction:
        u, delta, z: (batch, length, dim).
        A: (dim, state), or its logarithm log(-A) if log_A.
        B, C: (batch, groups, length, state).
        D, delta_bias: (dim,), or empty lists.
    Returns: (batch, length, dim) in u's dtype.
    """
    tensors = (*u, *delta, *A, *B, *C, *D, *delta_bias, *([] if z is None else [z]))
    keep_states = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    delta, z = [_in_dtypes(each) for each in delta], None if z is None else _in_dtypes(z)
    u, delta, z = channel_last(u), channel_last(delta), None if z is None else channel_last([z])[0]
    A, D, delta_bias = ([each.float().contiguous() for each in some] for some in (A, D, delta_bias))
    B, C = ([each.float() for each in some] for some in (B, C))
    options = (delta_softplus, log_A, reverse, scale)
    return _forward(u, delta, A, B, C, D, delta_bias, z, *options, keep_states)[0]


def scan_directions_triton(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A_log: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor,
    *,
    scale: float,
) -> Tensor:
    """Forward and backward direction of a mixer; arguments and result as `bidirectional.scan_both` has them."""
    if z.numel() == 0:
        return z * sum(x.sum() for x in (*u, *delta, *A_log, *B, *C, *D, *delta_bias))  # zeros for every gradient
    B, C = [x.unsqueeze(1) for x in B], [x.unsqueeze(1) for x in C]
    return scan_directions(u, delta, A_log, B, C, D, delta_bias, z, log_A=True, scale=scale)


def _in_dtypes(x: Tensor) -> Tensor:
    return x if x.dtype in DTYPES else x.float()


def channel_last(sequences: Sequence[Tensor]) -> list[Tensor]:
    """With neighbouring channels next to each other in memory, and the same strides in all of them."""
    if all(x.stride(2) == 1 and x.stride() == sequences[0].stride() for x in sequences):
        return list(sequences)
    return [x.contiguous() for x in sequences]


@torch.library.custom_op("mamba_tbps::triton_scan", mutates_args=())
def _forward(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor | None,
    delta_softplus: bool,
    log_A: bool,
    reverse: bool,
    scale: float,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(out, y before the gate, states before each chunk); the last two are empty where nothing needs them."""
    from models.selective_scan.triton_kernels import scan_forward_kernel

    out, y, states = _forward_outputs(u[0], A, B, z, keep_states)
    groups, state = B[0].shape[1], A[0].shape[1]
    with on_device_of(out):
        scan_forward_kernel[grid_of(u[0], groups, state)](
            *(tuple(u), tuple(delta), tuple(tiles(each, groups) for each in A), tuple(map(pairs, B, C))),
            *(tuple(each) if each else (out,) * len(u) for each in (D, delta_bias)),
            *(out if z is None else z, out, y, states),
            *_sizes(u[0], B[0], scale),
            *u[0].stride()[:2],
            *delta[0].stride()[:2],
            *((0, 0) if z is None else z.stride()[:2]),
            zero=0,
            **_flags(A, D, delta_bias, z, delta_softplus, log_A, reverse),
            KEEP_STATES=keep_states,
            **tile_sizes(state, LANES_FORWARD),
            num_warps=1,
        )
    return out, y, states


@_forward.register_fake
def _forward_fake(u, delta, A, B, C, D, delta_bias, z, delta_softplus, log_A, reverse, scale, keep_states):  # type: ignore[no-untyped-def]
    return _forward_outputs(u[0], A, B, z, keep_states)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *lists, z, ctx.delta_softplus, ctx.log_A, ctx.reverse, ctx.scale, _ = inputs
    ctx.lengths, ctx.has_z = [len(each) for each in lists], z is not None
    gate = [z, output[1]] if z is not None else []
    ctx.save_for_backward(*(x for each in lists for x in each), *gate, output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _y: Tensor | None, _states: Tensor | None) -> tuple[Any, ...]:
    saved = iter(ctx.saved_tensors)
    u, delta, A, B, C, D, delta_bias = ([next(saved) for _ in range(count)] for count in ctx.lengths)
    z, y, states = next(saved) if ctx.has_z else None, next(saved) if ctx.has_z else None, next(saved)
    if grad_out is None:
        return (*([None] * count for count in ctx.lengths), None, None, None, None, None, None)
    grad_u, grad_delta, grad_z, grad_BC, grad_A, grad_D, grad_bias = _backward_op(
        *(grad_out if grad_out.stride(2) == 1 else grad_out.contiguous(), u, delta, A, B, C, D, delta_bias, z, y),
        *(states, ctx.delta_softplus, ctx.log_A, ctx.reverse, ctx.scale),
    )
    grad_B, grad_C = grad_BC.unbind(1)
    grads = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias)
    of_lists = [list(grad[:count].unbind(0)) for grad, count in zip(grads, ctx.lengths, strict=True)]
    return (*of_lists, grad_z if ctx.has_z else None, None, None, None, None, None)


_forward.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("mamba_tbps::triton_scan_backward", mutates_args=())
def _backward_op(
    grad_out: Tensor,
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor | None,
    y: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
    log_A: bool,
    reverse: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients (directions, ...) of u, delta, z (no direction), B and C (directions, 2, ...), A, D, delta_bias."""
    from models.selective_scan.triton_kernels import scan_backward_kernel

    assert states.numel() > 0, "the forward pass has kept no states"
    directions, (batch, length, dim), state = len(u), u[0].shape, A[0].shape[1]
    groups, (programs, _) = B[0].shape[1], grid_of(u[0], B[0].shape[1], state)
    grad_u, grad_delta, grad_z, *_ = _backward_outputs(u, delta, A, B, z)
    parts = states.new_empty((directions, 2, batch, programs, length, state))
    grad_A = states.new_empty((directions, batch, programs, *states.shape[-2:]))
    grad_D, grad_bias = states.new_empty((2, directions, batch, dim))
    with on_device_of(states):
        scan_backward_kernel[(programs, batch, directions)](
            grad_out,
            *(tuple(u), tuple(delta), tuple(tiles(each, groups) for each in A), tuple(map(pairs, B, C))),
            *(tuple(each) if each else (states,) * directions for each in (D, delta_bias)),
            *(states if z is None else z, states if y is None else y, states),
            *(tuple(grad_u.unbind()), tuple(grad_delta.unbind()), grad_z, parts, grad_A, grad_D, grad_bias),
            *_sizes(u[0], B[0], scale),
            *grad_out.stride()[:2],
            *u[0].stride()[:2],
            *delta[0].stride()[:2],
            *((0, 0) if z is None else z.stride()[:2]),
            zero=0,
            **_flags(A, D, delta_bias, z, delta_softplus, log_A, reverse),
            **tile_sizes(state, LANES_BACKWARD),
            num_warps=1,
        )
    grad_BC = parts.unflatten(3, (groups, -1)).sum(4)  # (directions, 2, batch, groups, length, state)
    grad_A = untiled(grad_A.sum(1), groups, dim, state)
    return grad_u, grad_delta, grad_z, grad_BC, grad_A, grad_D.sum(1), grad_bias.sum(1)


@_backward_op.register_fake
def _backward_fake(grad_out, u, delta, A, B, C, D, delta_bias, z, y, states, delta_softplus, log_A, reverse, scale):  # type: ignore[no-untyped-def]
    return _backward_outputs(u, delta, A, B, z)


def _forward_outputs(
    u: Tensor, A: Sequence[Tensor], B: Sequence[Tensor], z: Tensor | None, keep_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, dim = u.shape
    kept = (len(A), *kept_shape(u, B[0].shape[1], A[0].shape[1])) if keep_states else (0,)
    dense = u.new_empty((batch, length, dim))
    y = u.new_empty((0,) if z is None else dense.shape)
    return dense, y, u.new_empty(kept, dtype=torch.float32)


def _backward_outputs(
    u: Sequence[Tensor], delta: Sequence[Tensor], A: Sequence[Tensor], B: Sequence[Tensor], z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    directions, (batch, length, dim), (groups, state) = len(u), u[0].shape, (B[0].shape[1], A[0].shape[1])

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return u[0].new_empty(shape, dtype=dtype)

    return (
        new(directions, batch, length, dim, dtype=u[0].dtype),
        new(directions, batch, length, dim, dtype=delta[0].dtype),
        new(0) if z is None else new(batch, length, dim, dtype=z.dtype),
        new(directions, 2, batch, groups, length, state),
        new(directions, dim, state),
        new(directions, dim),
        new(directions, dim),
    )


def _sizes(u: Tensor, B: Tensor, scale: float) -> tuple[int, int, int, float]:
    return u.shape[1], u.shape[2], u.shape[2] // B.shape[1], scale


def _flags(
    A: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor | None,
    delta_softplus: bool,
    log_A: bool,
    reverse: bool,
) -> dict[str, Any]:
    return {
        "DIRECTIONS": len(A),
        "REVERSE": reverse,
        "LOG_A": log_A,
        "HAS_D": bool(D),
        "HAS_Z": z is not None,
        "HAS_BIAS": bool(delta_bias),
        "SOFTPLUS": delta_softplus,
    }


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
