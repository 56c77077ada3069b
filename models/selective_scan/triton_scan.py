"""Selective scan by our own Triton kernels (triton_*.py): float32 arithmetic on float32, bfloat16 or float16.

One launch computes one direction or both, and two more add up what the programs of the backward pass have written, in a
fixed order: results are the same to the last digit from run to run. A long scan of few channels is split along time.

If TRITON_INTERPRET=1 is set before Python starts, Triton runs the kernels on the CPU: slowly, for tests.
"""

import contextlib
import importlib.util
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.custom_operator import Gradients, Kept, ScanOperator, ScanPasses, Targets
from models.selective_scan.directions import Scan
from models.selective_scan.self_test import trouble
from models.selective_scan.triton_tiles import (
    LANES_BACKWARD,
    LANES_FORWARD,
    MAX_STATE,
    grid_of,
    kept_shape,
    most_registers,
    segment_length,
    tile_shape,
    tile_sizes,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VECTOR_BYTES = 16  # that a thread loads at a time
BLOCK_OF_SUMS = 256  # numbers per program that adds up parts


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
    return trouble(scan_triton, device_type) if device_type == "cuda" else None


def channel_last(sequences: Sequence[Tensor]) -> list[Tensor]:
    """The sequences with channel stride 1 and equal strides; copied if they have not."""
    if all(x.stride(2) == 1 and x.stride() == sequences[0].stride() for x in sequences):
        return list(sequences)
    return [x.contiguous() for x in sequences]


def with_aligned_projections(scan: Scan) -> Scan:
    """The same scan with B and C whose strides are equal, whose state stride is 1, and whose rows start where a thread
    can load VECTOR_BYTES at a time. They are copied if they are not like that."""
    projections = [x for each in scan.directions for x in (each.B, each.C)]
    first, size = projections[0], projections[0].element_size()
    needed = math.gcd(VECTOR_BYTES, first.shape[3] * size)  # a copy has no better one
    in_place = (
        first.stride(3) == 1
        and all(stride * size % needed == 0 for stride in first.stride()[:3])
        and all(x.stride() == first.stride() and x.data_ptr() % needed == 0 for x in projections)
    )
    if in_place:
        return scan
    copies = [x.clone(memory_format=torch.contiguous_format) for x in projections]
    pairs = zip(scan.directions, copies[::2], copies[1::2], strict=True)
    return scan._replace(directions=tuple(each._replace(B=B, C=C) for each, B, C in pairs))


class TritonPasses(ScanPasses):
    dtypes = DTYPES

    def prepare(self, scan: Scan) -> Scan:
        """As the base class; sequences that are not channel-last are copied as well."""
        scan = super().prepare(scan)
        sequences = (channel_last(each) for each in zip(*(each[:2] for each in scan.directions), strict=True))
        directions = [
            each._replace(u=u, delta=delta) for each, u, delta in zip(scan.directions, *sequences, strict=True)
        ]
        return scan._replace(directions=tuple(directions), z=None if scan.z is None else channel_last([scan.z])[0])

    def empty_outputs(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        u, _, A, B, *_ = scan.directions[0]
        kept = (len(scan.directions), *kept_shape(u, B.shape[1], A.shape[1])) if keep else (0,)
        y = u.new_empty((0,) if scan.z is None else u.shape)
        return u.new_empty(u.shape), Kept(y, u.new_empty(kept, dtype=torch.float32))

    def forward(self, scan: Scan, keep: bool) -> tuple[Tensor, Kept]:
        from models.selective_scan.triton_forward import scan_forward_kernel

        scan = with_aligned_projections(scan)
        launch = Launch(scan)
        out, kept = outputs = self.empty_outputs(scan, keep)
        with on_device_of(out):
            scan_forward_kernel[(*launch.grid, launch.segments)](
                *_inputs(scan, stand_in=out),
                *(out if scan.z is None else scan.z, out, *kept, _segment_states(scan, launch)),
                *launch.sizes,
                *launch.strides,
                zero=0,
                **launch.constants,
                DIM=launch.dim,
                HAS_D=scan.directions[0].D is not None,
                KEEP=keep,
                SEGMENTS=launch.segments > 1,
                **tile_sizes(launch.state, LANES_FORWARD),
                num_warps=1,
                **most_registers(out, launch.state),
            )
        return outputs

    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept, targets: Targets) -> Gradients:
        from models.selective_scan.triton_backward import scan_backward_kernel

        scan = with_aligned_projections(scan)
        grad_out = grad_out if grad_out.stride(2) == 1 else grad_out.contiguous()
        launch, states = Launch(scan), kept.states
        programs, batch = launch.grid
        gradients = self.empty_gradients(scan)
        grad_z = states if targets.z is None else targets.z
        parts = states.new_empty((launch.directions, batch, programs, launch.length, 2, launch.state))
        of_parameters = states.new_empty((launch.directions, batch * launch.segments, launch.dim * (launch.state + 2)))
        with on_device_of(states):
            scan_backward_kernel[(programs, batch, launch.directions * launch.segments)](
                grad_out,
                *_inputs(scan, stand_in=states),
                *((states, states) if scan.z is None else (scan.z, kept.y)),
                *(states, _segment_states(scan, launch, grad_out)),
                *(tuple(gradients.u.unbind()), tuple(gradients.delta.unbind()), grad_z, parts, of_parameters),
                *launch.sizes,
                grad_out.stride(0),
                *launch.strides,
                grad_z.stride(0),
                zero=0,
                **launch.constants,
                DIM=launch.dim,
                G_TIME=grad_out.stride(1),
                GZ_TIME=grad_z.stride(1),
                HAS_D=scan.directions[0].D is not None,
                SEGMENTS=launch.segments > 1,
                **tile_sizes(launch.state, LANES_BACKWARD),
                num_warps=1,
            )
            _add_up(parts, of_parameters, launch, targets.BC, gradients)
        return gradients


scan_channel_last = ScanOperator("triton_scan", TritonPasses())


def scan_triton(scan: Scan) -> Tensor:
    """Compute the scan; the result has the memory order of u."""
    out, u = scan_channel_last(scan), scan.directions[0].u
    return out if u.stride(2) <= u.stride(1) else out.transpose(1, 2).contiguous().transpose(1, 2)


class Launch:
    """What the launches of a scan have in common."""

    def __init__(self, scan: Scan) -> None:
        (u, delta, A, B, *_), z = scan.directions[0], scan.z
        (_, self.length, self.dim), self.groups, self.state = u.shape, B.shape[1], A.shape[1]
        self.directions = len(scan.directions)
        self.grid = programs, batch = grid_of(u, self.groups, self.state)
        self.segment_length = segment_length(self.length, programs * batch, multiprocessors(u.device))
        self.segments = -(-self.length // self.segment_length)
        self.sizes = self.length, self.segment_length, self.dim // self.groups, scan.scale
        self.strides = u.stride(0), delta.stride(0), *B.stride()[:2], 0 if z is None else z.stride(0)
        first = scan.directions[0]
        self.constants = {
            "U_TIME": u.stride(1),
            "DELTA_TIME": delta.stride(1),
            "B_TIME": B.stride(2),
            "Z_TIME": 0 if z is None else z.stride(1),
            "DIRECTIONS": self.directions,
            "REVERSE": first.reverse,
            "LOG_A": scan.log_A,
            "HAS_Z": z is not None,
            "HAS_BIAS": first.delta_bias is not None,
            "SOFTPLUS": scan.delta_softplus,
        }


def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 0 where kernels are interpreted, so that no scan is split for want of programs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


def _inputs(scan: Scan, stand_in: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """The kernels' arguments u to bias: an entry per direction, stand_in for a missing D or bias."""
    u, delta, A, B, C, D, delta_bias, _ = zip(*scan.directions, strict=True)
    return u, delta, A, B, C, *(tuple(stand_in if x is None else x for x in each) for each in (D, delta_bias))


def _segment_states(scan: Scan, launch: Launch, grad_out: Tensor | None = None) -> Tensor:
    """The states before each segment, or the gradients of the states behind it: (directions, batch, programs, segments,
    states, channels). Where the scan is not split: any tensor, which is not read."""
    from models.selective_scan.triton_segments import segment_scan_kernel, segment_states_kernel

    u, delta, A, B, C, _, bias = _inputs(scan, stand_in=scan.directions[0].A)
    if launch.segments == 1:
        return A[0]
    programs, batch = launch.grid
    shape = (2, launch.directions, batch, programs, launch.segments, *tile_shape(launch.state))
    ends, decays = A[0].new_empty(shape)
    source, constants = u, launch.constants
    if grad_out is not None:
        source, B = (grad_out,) * launch.directions, C
        constants = constants | {"U_TIME": grad_out.stride(1)}
    segment_scan_kernel[(programs, batch, launch.directions * launch.segments)](
        *(source, delta, A, B, bias, u[0] if scan.z is None else scan.z, ends, decays, *launch.sizes),
        *(source[0].stride(0), *launch.strides[1:]),
        zero=0,
        **constants,
        OF_GRADIENT=grad_out is not None,
        **tile_sizes(launch.state, LANES_FORWARD),
        num_warps=1,
    )
    upwards = launch.constants["REVERSE"] == (grad_out is not None)
    segment_states_kernel[(launch.directions * batch * programs,)](
        *(ends, decays, launch.segments, batch * programs),
        ORDER_FIRST=int(upwards),
        TILE=math.prod(tile_shape(launch.state)),
        num_warps=1,
    )
    return ends


def _add_up(parts: Tensor, of_parameters: Tensor, launch: Launch, BC: Tensor, gradients: Gradients) -> None:
    """Add the parts of the backward kernel, into BC and the gradients of the parameters."""
    from models.selective_scan.triton_sums import sum_parameters_kernel, sum_projections_kernel

    programs, batch = launch.grid
    blocks = -(-launch.length * 2 * launch.state // BLOCK_OF_SUMS)
    sum_projections_kernel[(blocks, batch * launch.groups, launch.directions)](
        *(parts, BC, batch, launch.length, launch.groups, programs // launch.groups, *BC.stride()),
        STATES=launch.state,
        BLOCK=BLOCK_OF_SUMS,
        num_warps=2,
    )
    blocks = -(-of_parameters.shape[2] // BLOCK_OF_SUMS)
    sum_parameters_kernel[(blocks, launch.directions)](
        *(of_parameters, *gradients[2:], of_parameters.shape[1], launch.dim),
        STATES=launch.state,
        BLOCK=BLOCK_OF_SUMS,
        num_warps=2,
    )


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
