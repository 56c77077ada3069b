"""Selective scan by the compiled kernel (cpu_kernel.c): float32 arithmetic on float32 or bfloat16 tensors.

One direction, or both directions of a mixer with the gate behind their sum. Registered as the custom operators
mamba_tbps::selective_scan and mamba_tbps::selective_scan_backward, so torch.compile and torch.export see two opaque
nodes with gradients. No tensor is copied, whatever its strides.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.build import Kernel, KernelUnavailable, load_kernels
from models.selective_scan.cpu_structs import Scan, run, small_view_of, view_of
from models.selective_scan.reference import selective_scan_reference

CHUNK = 16  # steps per kept state, as in cpu_kernel.c
STATE_MULTIPLE = 4  # UNROLL in cpu_kernel.c
MAX_STATE = 64
MIN_TASKS = 16  # split the channels until there are so many independent tasks ...
MIN_CHANNELS = 32  # ... of at least so many channels each
DTYPES = (torch.float32, torch.bfloat16)


def obstacle(device_type: str, dtype: torch.dtype, state: int) -> str | None:
    """Why the kernel cannot work on such tensors, or None where it can. Builds the kernel on first use."""
    if device_type != "cpu":
        return f"it needs tensors on the CPU, not on {device_type}"
    if dtype not in DTYPES:
        return f"it computes in float32 and takes float32 or bfloat16, not {dtype}"
    if state > MAX_STATE:
        return f"it keeps at most {MAX_STATE} states per channel, not {state}"
    try:
        load_kernels()
    except KernelUnavailable as error:
        return str(error)
    return None


def selective_scan_cpu(
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
    """As `selective_scan_reference`, but u must be float32 or bfloat16. Delta and z may differ from it in that."""
    if u.numel() == 0:  # nothing to gain, and the sums over the batch would have no first term
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    D_, bias = ([] if x is None else [x] for x in (D, delta_bias))
    return _scan([u], [delta], [A], [B], [C], D_, bias, z, delta_softplus, reverse, 1.0)


def scan_directions_cpu(
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
    u, delta = ([x.transpose(1, 2) for x in some] for some in (u, delta))
    A = [-each.float().exp() for each in A_log]
    B, C = ([x.transpose(1, 2).unsqueeze(1) for x in some] for some in (B, C))
    return _scan(u, delta, A, B, C, D, delta_bias, z.transpose(1, 2), True, False, scale).transpose(1, 2)


def _scan(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    z: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    scale: float,
) -> Tensor:
    """scale * silu(z) * the sum over one or two directions, the second of which runs the other way than the first."""
    tensors = (*u, *delta, *A, *B, *C, *D, *delta_bias, *([] if z is None else [z]))
    keep = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    delta, z = [_in_dtypes(each) for each in delta], None if z is None else _in_dtypes(z)
    A, D, delta_bias = ([each.float().contiguous() for each in some] for some in (A, D, delta_bias))
    B, C = ([each.float() for each in some] for some in (B, C))
    return _forward(u, delta, A, B, C, D, delta_bias, z, delta_softplus, reverse, scale, keep)[0]


def _in_dtypes(x: Tensor) -> Tensor:
    return x if x.dtype in DTYPES else x.float()


@torch.library.custom_op("mamba_tbps::selective_scan", mutates_args=(), device_types="cpu")
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
    reverse: bool,
    scale: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """(out, states before each chunk); the second is empty unless `keep`."""
    out, states = outputs = _forward_outputs(u, A, B, keep)
    for d, scan in enumerate(_describe(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse, scale)):
        memory = states[d] if keep else states.new_empty(_states_shape(u[d], A[d], B[d], 1))
        scan.keep_states, scan.states = keep, memory.data_ptr()
        scan.out = view_of(out)
        if d > 0:
            scan.base = view_of(out)
        if d == len(u) - 1 and z is not None:
            scan.z = view_of(z)
        run(_kernel().forward, scan)
    return outputs


@_forward.register_fake
def _forward_fake(u, delta, A, B, C, D, delta_bias, z, delta_softplus, reverse, scale, keep):  # type: ignore[no-untyped-def]
    return _forward_outputs(u, A, B, keep)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *lists, z, ctx.delta_softplus, ctx.reverse, ctx.scale, _ = inputs
    ctx.lengths, ctx.has_z = [len(each) for each in lists], z is not None
    ctx.save_for_backward(*(x for each in lists for x in each), *([] if z is None else [z]), output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    saved = iter(ctx.saved_tensors)
    u, delta, A, B, C, D, delta_bias = ([next(saved) for _ in range(count)] for count in ctx.lengths)
    z, states = next(saved) if ctx.has_z else None, next(saved)
    if grad_out is None:
        return (*([None] * count for count in ctx.lengths), None, None, None, None, None)
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters = _backward_op(
        grad_out, u, delta, A, B, C, D, delta_bias, z, states, ctx.delta_softplus, ctx.reverse, ctx.scale
    )
    grad_B, grad_C = grad_BC[:, 0].permute(1, 0, 2, 4, 5, 3)  # (directions, batch, groups, state, length) each
    grad_A, grad_D, grad_bias = grad_parameters[:, 0].split([A[0].shape[1], 1, 1], dim=2)
    grads = (grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D.squeeze(2), grad_bias.squeeze(2))
    of_lists = [list(grad[:count].unbind(0)) for grad, count in zip(grads, ctx.lengths, strict=True)]
    return (*of_lists, grad_z if ctx.has_z else None, None, None, None, None)


_forward.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("mamba_tbps::selective_scan_backward", mutates_args=(), device_types="cpu")
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
    states: Tensor,
    delta_softplus: bool,
    reverse: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    assert states.numel() > 0, "the forward pass has kept no states"
    grads = _backward_outputs(u, delta, A, B, z)
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters = grads
    scans = list(enumerate(_describe(u, delta, A, B, C, D, delta_bias, delta_softplus, reverse, scale)))
    for d, scan in reversed(scans):
        scan.keep_states, scan.states, scan.grad_out = True, states[d].data_ptr(), view_of(grad_out)
        scan.grad_u, scan.grad_delta = view_of(grad_u[d]), view_of(grad_delta[d])
        if z is not None:
            scan.z = view_of(z)
            if d > 0:  # what it adds to the sum before the gate waits where the first direction puts the gradient of z
                scan.y = view_of(grad_z)
            else:
                scan.grad_z = view_of(grad_z)
                if len(u) == 2:
                    scan.base = view_of(grad_z)
        scan.grad_B, scan.grad_C = (small_view_of(each.permute(0, 2, 3, 1)) for each in grad_BC[d, 0])
        scan.part_stride, scan.grad_parameters = grad_BC.stride(1), grad_parameters[d].data_ptr()
        run(_kernel().backward, scan)
    return grads


@_backward_op.register_fake
def _backward_fake(grad_out, u, delta, A, B, C, D, delta_bias, z, states, delta_softplus, reverse, scale):  # type: ignore[no-untyped-def]
    return _backward_outputs(u, delta, A, B, z)


def _forward_outputs(
    u: Sequence[Tensor], A: Sequence[Tensor], B: Sequence[Tensor], keep: bool
) -> tuple[Tensor, Tensor]:
    chunks = -(-u[0].shape[2] // CHUNK)
    kept = (len(u), *_states_shape(u[0], A[0], B[0], chunks)) if keep else (0,)
    return _empty_like(u[0], u[0]), u[0].new_empty(kept, dtype=torch.float32)


def _backward_outputs(
    u: Sequence[Tensor], delta: Sequence[Tensor], A: Sequence[Tensor], B: Sequence[Tensor], z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta (directions, batch, dim, length) and z, of B and C (directions, parts, 2, batch, length,
    groups, state) and of A, D, delta_bias (directions, batch, dim, state + 2); in the last two, [:, 0] is the sum and
    the rest working memory."""
    (batch, groups, state, length), dim, directions = B[0].shape, u[0].shape[1], len(u)
    parts = _partition(batch, dim, groups)[0]
    return (
        _empty_like(u[0], u[0], directions),
        _empty_like(delta[0], u[0], directions),
        u[0].new_empty(0) if z is None else _empty_like(z, u[0]),
        u[0].new_empty((directions, parts, 2, batch, length, groups, state), dtype=torch.float32),
        u[0].new_empty((directions, batch, dim, state + 2), dtype=torch.float32),
    )


def _empty_like(x: Tensor, order: Tensor, *axes: int) -> Tensor:
    """Dense and empty, of the dtype of x, channel-last in memory if `order` is, with more axes before if given."""
    batch, dim, length = x.shape
    if order.stride(1) <= order.stride(2):
        return x.new_empty((*axes, batch, length, dim)).transpose(-1, -2)
    return x.new_empty((*axes, batch, dim, length))


def _partition(batch: int, dim: int, groups: int) -> tuple[int, int]:
    """(parts per group, vector blocks per part): set by the shape alone, so that sums have a fixed order."""
    lanes, channels = _kernel().lanes, dim // groups
    wanted = -(-MIN_TASKS // max(batch * groups, 1))
    parts = max(min(wanted, channels // MIN_CHANNELS), 1)
    blocks = -(-channels // (parts * lanes))
    return -(-channels // (blocks * lanes)), blocks


def _states_shape(u: Tensor, A: Tensor, B: Tensor, chunks: int) -> tuple[int, ...]:
    parts, blocks = _partition(u.shape[0], u.shape[1], B.shape[1])
    padded_state = -(-A.shape[1] // STATE_MULTIPLE) * STATE_MULTIPLE
    return (u.shape[0] * B.shape[1] * parts, chunks, blocks, padded_state, _kernel().lanes)


def _describe(
    u: Sequence[Tensor],
    delta: Sequence[Tensor],
    A: Sequence[Tensor],
    B: Sequence[Tensor],
    C: Sequence[Tensor],
    D: Sequence[Tensor],
    delta_bias: Sequence[Tensor],
    delta_softplus: bool,
    reverse: bool,
    scale: float,
) -> list[Scan]:
    """struct scan of each direction, with all that the two passes share."""
    scans = []
    for d in range(len(u)):
        (batch, dim, length), (groups, state) = u[d].shape, B[d].shape[1:3]
        sizes = (batch, dim, length, state, groups, *_partition(batch, dim, groups))
        scan = Scan(*sizes, delta_softplus, reverse != (d == 1))
        scan.threads, scan.scale = torch.get_num_threads(), scale
        scan.u, scan.delta, scan.B, scan.C = view_of(u[d]), view_of(delta[d]), small_view_of(B[d]), small_view_of(C[d])
        scan.A = A[d].data_ptr()
        scan.D, scan.bias = (each[d].data_ptr() if each else None for each in (D, delta_bias))
        scans.append(scan)
    return scans


def _kernel() -> Kernel:
    return load_kernels()[0]
