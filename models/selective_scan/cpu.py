"""Selective scan by the compiled kernel (cpu_kernel.c): float32 arithmetic on float32 or bfloat16 tensors.

The kernel computes one direction at a time. The second one adds to what the first has written and applies the gate.
No sequence is copied, whatever its strides.
"""

import torch
from torch import Tensor

from models.selective_scan.compiler import Kernel, KernelUnavailable, load_kernels
from models.selective_scan.cpu_structs import ScanStruct, projection_view, run, sequence_view
from models.selective_scan.custom_operator import Gradients, Kept, ScanPasses, scan_operator
from models.selective_scan.directions import Direction, Scan

CHUNK = 16  # steps per kept state, as in cpu_kernel.c
STATE_MULTIPLE = 4  # UNROLL in cpu_kernel.c
MAX_STATE = 64
MIN_TASKS = 16  # split the channels until there are this many independent tasks ...
MIN_CHANNELS = 32  # ... of at least this many channels each
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


class CpuPasses(ScanPasses):
    """The results of the backward pass are the gradients of

        u, delta     (directions, batch, length, dim)
        z            (batch, length, dim)
        B, C         (directions, parts, 2, batch, length, groups, state)
        A, D, bias   (directions, batch, dim, state + 2)

    In the last two, [:, 0] is the sum over the second axis and the rest is working memory.
    """

    dtypes = DTYPES

    def prepare(self, scan: Scan) -> Scan:
        return super().prepare(scan.with_plain_A())

    def empty_outputs(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        first = scan.directions[0]
        chunks = -(-first.u.shape[1] // CHUNK)
        shape = (len(scan.directions), *_states_shape(first, chunks)) if keep else (0,)
        states = first.u.new_empty(shape, dtype=torch.float32)
        return _empty_like(first.u, first.u), Kept(first.u.new_empty(0), states)

    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        out, kept = outputs = self.empty_outputs(scan, keep)
        structs = _describe(scan)
        for d, struct in enumerate(structs):
            memory = kept.states[d] if keep else kept.states.new_empty(_states_shape(scan.directions[d], 1))
            struct.keep_states, struct.states = keep, memory.data_ptr()
            struct.out = sequence_view(out)
            if d > 0:
                struct.base = sequence_view(out)
            if d == len(structs) - 1 and scan.z is not None:
                struct.z = sequence_view(scan.z)
            run(_kernel().forward, struct)
        return outputs

    def empty_gradients(self, scan: Scan) -> list[Tensor]:
        u, delta, _, B, *_ = scan.directions[0]
        (batch, groups, length, state), dim, directions = B.shape, u.shape[2], len(scan.directions)
        parts = _partition(batch, dim, groups)[0]
        return [
            _empty_like(u, u, directions),
            _empty_like(delta, u, directions),
            u.new_empty(0) if scan.z is None else _empty_like(scan.z, u),
            u.new_empty((directions, parts, 2, batch, length, groups, state), dtype=torch.float32),
            u.new_empty((directions, batch, dim, state + 2), dtype=torch.float32),
        ]

    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept) -> list[Tensor]:
        grad_u, grad_delta, grad_z, grad_BC, grad_parameters = results = self.empty_gradients(scan)
        structs = _describe(scan)
        for d, struct in reversed(list(enumerate(structs))):
            struct.keep_states, struct.states = True, kept.states[d].data_ptr()
            struct.grad_out = sequence_view(grad_out)
            struct.grad_u, struct.grad_delta = sequence_view(grad_u[d]), sequence_view(grad_delta[d])
            if scan.z is not None:
                struct.z = sequence_view(scan.z)
                # The second direction runs first. It leaves its y in grad_z; the first adds its own and replaces the
                # sum by z's gradient.
                if d > 0:
                    struct.y = sequence_view(grad_z)
                else:
                    struct.grad_z = sequence_view(grad_z)
                    if len(structs) == 2:
                        struct.base = sequence_view(grad_z)
            struct.grad_B, struct.grad_C = (projection_view(each.transpose(1, 2)) for each in grad_BC[d, 0])
            struct.part_stride, struct.grad_parameters = grad_BC.stride(1), grad_parameters[d].data_ptr()
            run(_kernel().backward, struct)
        return results

    def gradients(self, results: list[Tensor]) -> Gradients:
        grad_u, grad_delta, grad_z, grad_BC, grad_parameters = results
        grad_B, grad_C = grad_BC[:, 0].permute(1, 0, 2, 4, 3, 5)  # (directions, batch, groups, length, state) each
        grad_A, grad_D, grad_bias = grad_parameters[:, 0].split([grad_parameters.shape[-1] - 2, 1, 1], dim=2)
        return Gradients(grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D.squeeze(2), grad_bias.squeeze(2), grad_z)


scan_cpu = scan_operator("selective_scan", CpuPasses(), device_types="cpu")


def _empty_like(x: Tensor, order: Tensor, *axes: int) -> Tensor:
    """A dense, uninitialised tensor (*axes, *x.shape) of x's dtype; channel-last in memory if `order` is."""
    batch, length, dim = x.shape
    if order.stride(2) <= order.stride(1):
        return x.new_empty((*axes, batch, length, dim))
    return x.new_empty((*axes, batch, dim, length)).transpose(-1, -2)


def _partition(batch: int, dim: int, groups: int) -> tuple[int, int]:
    """(parts per group, vector blocks per part). They depend on the shape alone, so that sums have a fixed order."""
    lanes, channels = _kernel().lanes, dim // groups
    wanted = -(-MIN_TASKS // max(batch * groups, 1))
    parts = max(min(wanted, channels // MIN_CHANNELS), 1)
    blocks = -(-channels // (parts * lanes))
    return -(-channels // (blocks * lanes)), blocks


def _states_shape(direction: Direction, chunks: int) -> tuple[int, ...]:
    (batch, _, dim), groups, state = direction.u.shape, direction.B.shape[1], direction.A.shape[1]
    parts, blocks = _partition(batch, dim, groups)
    padded_state = -(-state // STATE_MULTIPLE) * STATE_MULTIPLE
    return batch * groups * parts, chunks, blocks, padded_state, _kernel().lanes


def _describe(scan: Scan) -> list[ScanStruct]:
    """struct scan of each direction, with the fields that both passes need."""
    structs = []
    for u, delta, A, B, C, D, delta_bias, reverse in scan.directions:
        (batch, length, dim), (_, groups, _, state) = u.shape, B.shape
        sizes = (batch, dim, length, state, groups, *_partition(batch, dim, groups))
        struct = ScanStruct(*sizes, scan.delta_softplus, reverse)
        struct.threads, struct.scale = torch.get_num_threads(), scan.scale
        struct.u, struct.delta = sequence_view(u), sequence_view(delta)
        struct.B, struct.C = projection_view(B), projection_view(C)
        struct.A = A.data_ptr()
        struct.D, struct.bias = (None if x is None else x.data_ptr() for x in (D, delta_bias))
        structs.append(struct)
    return structs


def _kernel() -> Kernel:
    return load_kernels()[0]
