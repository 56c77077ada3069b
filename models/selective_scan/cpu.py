"""Selective scan by the compiled kernel (cpu_kernel.c): float32 arithmetic on float32 or bfloat16 tensors.

Registered as the custom operators mamba_tbps::selective_scan and mamba_tbps::selective_scan_backward, so torch.compile
and torch.export see two opaque nodes with gradients. No tensor is copied, whatever its strides.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.build import Kernel, KernelUnavailable, load_kernels
from models.selective_scan.reference import selective_scan_reference

CHUNK = 16  # steps per kept state, as in cpu_kernel.c
STATE_MULTIPLE = 4  # UNROLL in cpu_kernel.c
MAX_STATE = 64
MIN_TASKS = 16  # split the channels until there are so many independent tasks ...
MIN_CHANNELS = 32  # ... of at least so many channels each
DTYPES = (torch.float32, torch.bfloat16)


class View(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("batch", "channel", "time", "is_bf16"))]


class _SmallView(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("batch", "group", "state", "time"))]


_SIZES = (
    "batch",
    "dim",
    "length",
    "state",
    "groups",
    "parts",
    "blocks",
    "softplus",
    "reverse",
    "keep_states",
    "threads",
)
_VIEWS = ("u", "delta", "z", "out", "grad_out", "grad_u", "grad_delta", "grad_z")


class _Scan(ctypes.Structure):
    """struct scan of cpu_kernel.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, View) for name in _VIEWS),
        *((name, _SmallView) for name in ("B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias", "states")),
        *((name, _SmallView) for name in ("grad_B", "grad_C")),
        ("part_stride", ctypes.c_int64),
        ("grad_parameters", ctypes.c_void_p),
    ]


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
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    keep_states = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)
    delta, z = _in_dtypes(delta), None if z is None else _in_dtypes(z)
    A, D, delta_bias = (
        _packed(A),
        None if D is None else _packed(D),
        None if delta_bias is None else _packed(delta_bias),
    )
    return _forward(u, delta, A, B.float(), C.float(), D, z, delta_bias, delta_softplus, reverse, keep_states)[0]


def _in_dtypes(x: Tensor) -> Tensor:
    return x if x.dtype in DTYPES else x.float()


def _packed(x: Tensor) -> Tensor:
    return x.float().contiguous()


@torch.library.custom_op("mamba_tbps::selective_scan", mutates_args=(), device_types="cpu")
def _forward(
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
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    out, states = _forward_outputs(u, A, B, keep_states)
    memory = states if keep_states else states.new_empty(_states_shape(u, A, B, 1))
    scan = _describe(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, memory)
    scan.out, scan.keep_states = view_of(out), keep_states
    _run(_kernel().forward, scan)
    return out, states


@_forward.register_fake
def _forward_fake(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, keep_states):  # type: ignore[no-untyped-def]
    return _forward_outputs(u, A, B, keep_states)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.delta_softplus, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_out is None:
        return (None,) * 11
    u, delta, A, B, C, D, z, delta_bias, states = ctx.saved_tensors
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters = _backward_op(
        grad_out, u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, ctx.reverse, states
    )
    grad_B, grad_C = grad_BC[0].permute(0, 1, 3, 4, 2)  # (batch, groups, state, length) each
    grad_A, grad_D, grad_bias = grad_parameters[0].split([A.shape[1], 1, 1], dim=1)
    grad_D = None if D is None else grad_D.squeeze(1)
    grad_bias = None if delta_bias is None else grad_bias.squeeze(1)
    return (
        grad_u,
        grad_delta,
        grad_A,
        grad_B,
        grad_C,
        grad_D,
        None if z is None else grad_z,
        grad_bias,
        None,
        None,
        None,
    )


_forward.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("mamba_tbps::selective_scan_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad_out: Tensor,
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
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    assert states.shape[1] > 0, "the forward pass has kept no states"
    grads = _backward_outputs(u, delta, A, B, z)
    grad_u, grad_delta, grad_z, grad_BC, grad_parameters = grads
    scan = _describe(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, states)
    scan.keep_states, scan.grad_out = True, view_of(grad_out)
    scan.grad_u, scan.grad_delta = view_of(grad_u), view_of(grad_delta)
    if z is not None:
        scan.grad_z = view_of(grad_z)
    scan.grad_B, scan.grad_C = (_small_view(each.permute(0, 2, 3, 1)) for each in grad_BC[0])
    scan.part_stride, scan.grad_parameters = grad_BC.stride(0), grad_parameters.data_ptr()
    _run(_kernel().backward, scan)
    return grads


@_backward_op.register_fake
def _backward_fake(grad_out, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, states):  # type: ignore[no-untyped-def]
    return _backward_outputs(u, delta, A, B, z)


def _forward_outputs(u: Tensor, A: Tensor, B: Tensor, keep_states: bool) -> tuple[Tensor, Tensor]:
    """(out, states): states holds the state before each chunk, or nothing."""
    chunks = -(-u.shape[2] // CHUNK) if keep_states else 0
    return _empty_like(u, u), u.new_empty(_states_shape(u, A, B, chunks), dtype=torch.float32)


def _backward_outputs(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, z, of B and C (parts, 2, batch, length, groups, state) and of A, D, delta_bias
    (batch, dim, state + 2); in the last two, [0] is the sum and the rest working memory."""
    (batch, groups, state, length), dim = B.shape, u.shape[1]
    parts = _partition(batch, dim, groups)[0]
    return (
        _empty_like(u, u),
        _empty_like(delta, u),
        u.new_empty(0) if z is None else _empty_like(z, u),
        u.new_empty((parts, 2, batch, length, groups, state), dtype=torch.float32),
        u.new_empty((batch, dim, state + 2), dtype=torch.float32),
    )


def _empty_like(x: Tensor, order: Tensor) -> Tensor:
    """Dense and empty, of the dtype of x, channel-last in memory if `order` is."""
    batch, dim, length = x.shape
    if order.stride(1) <= order.stride(2):
        return x.new_empty((batch, length, dim)).transpose(1, 2)
    return x.new_empty((batch, dim, length))


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
    states: Tensor,
) -> _Scan:
    """struct scan with all that the two passes share."""
    batch, dim, length = u.shape
    scan = _Scan(
        batch, dim, length, A.shape[1], B.shape[1], *_partition(batch, dim, B.shape[1]), delta_softplus, reverse
    )
    scan.threads = torch.get_num_threads()
    scan.u, scan.delta, scan.B, scan.C = view_of(u), view_of(delta), _small_view(B), _small_view(C)
    if z is not None:
        scan.z = view_of(z)
    scan.A, scan.states = A.data_ptr(), states.data_ptr()
    scan.D = None if D is None else D.data_ptr()
    scan.bias = None if delta_bias is None else delta_bias.data_ptr()
    return scan


def view_of(x: Tensor) -> View:
    return View(x.data_ptr(), *x.stride(), x.dtype == torch.bfloat16)


def _small_view(x: Tensor) -> _SmallView:
    return _SmallView(x.data_ptr(), *x.stride())


def _run(function: Any, scan: _Scan) -> None:
    if function(ctypes.byref(scan)):
        raise MemoryError("selective_scan: no memory for the CPU kernel's working space")


def _kernel() -> Kernel:
    return load_kernels()[0]
