"""Selective scan by the compiled kernel (cpu_kernel.c): float32 arithmetic on float32 or bfloat16 tensors.

The kernel computes one direction at a time. The second one adds to what the first has written and applies the gate.
No sequence is copied, whatever its strides.
"""

import torch
from torch import Tensor

from models.selective_scan.compiler import Kernel, KernelUnavailable, load_kernels
from models.selective_scan.cpu_structs import ScanStruct, projection_view, run, sequence_view
from models.selective_scan.custom_operator import Gradients, Kept, ScanOperator, ScanPasses, Targets
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
    dtypes = DTYPES

    def empty_outputs(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        first = scan.directions[0]
        chunks = -(-first.u.shape[1] // CHUNK)
        shape = (len(scan.directions), *_states_shape(first, chunks)) if keep else (0,)
        states = first.u.new_empty(shape, dtype=torch.float32)
        return _empty_like(first.u, first.u), Kept(first.u.new_empty(0), states)

    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        scan = _as_the_kernel_reads_it(scan)
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

    def empty_gradients(self, scan: Scan) -> Gradients:
        (u, delta, *_), directions = scan.directions[0], len(scan.directions)
        own = {"u": _empty_like(u, u, directions), "delta": _empty_like(delta, u, directions)}
        return super().empty_gradients(scan)._replace(**own)

    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept, targets: Targets) -> Gradients:
        given, scan = scan, _as_the_kernel_reads_it(scan)
        results, grad_z, structs = self.empty_gradients(scan), targets.z, _describe(scan)
        grad_BC, grad_parameters = _empty_sums(scan)
        for d, struct in reversed(list(enumerate(structs))):
            struct.keep_states, struct.states = True, kept.states[d].data_ptr()
            struct.grad_out = sequence_view(grad_out)
            struct.grad_u, struct.grad_delta = sequence_view(results.u[d]), sequence_view(results.delta[d])
            if scan.z is not None and grad_z is not None:
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
        targets.BC.copy_(grad_BC[:, 0].transpose(3, 4))
        sums = grad_parameters[:, 0]
        for d, direction in enumerate(scan.directions):
            torch.mul(sums[d, :, :-2], direction.A if given.log_A else 1.0, out=results.A[d])  # A' = A for A = -exp(x)
        results.D.copy_(sums[..., -2])
        results.delta_bias.copy_(sums[..., -1])
        return results


scan_cpu = ScanOperator("selective_scan", CpuPasses(), device_types="cpu")


def _as_the_kernel_reads_it(scan: Scan) -> Scan:
    """With A instead of its logarithm, and B and C in float32."""
    scan = scan.with_plain_A()
    directions = tuple(
        each._replace(A=each.A.contiguous(), B=each.B.float(), C=each.C.float()) for each in scan.directions
    )
    return scan._replace(directions=directions)


def _empty_sums(scan: Scan) -> tuple[Tensor, Tensor]:
    """Working memory for the gradients of B and C, and of the parameters.

    (directions, parts, 2, batch, length, groups, state); [:, 0] gets the sum over the parts
    (directions, batch, dim, state + 2): A, D, bias; [:, 0] gets the sum over the batch
    """
    u, B, directions = scan.directions[0].u, scan.directions[0].B, len(scan.directions)
    (batch, groups, length, state), dim = B.shape, u.shape[2]
    parts, _ = _partition(batch, dim, groups)
    of_BC = B.new_empty((directions, parts, 2, batch, length, groups, state))
    return of_BC, B.new_empty((directions, batch, dim, state + 2))


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
