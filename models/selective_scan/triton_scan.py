"""Selective scan by our own Triton kernels (triton_kernels.py): float32 arithmetic on float32, bfloat16 or float16.

One launch computes one direction or both. Results are the same to the last digit from run to run: programs write
partial sums, and a second step adds them in a fixed order.

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
    MAX_STATE,
    grid_of,
    kept_shape,
    tile_sizes,
    tiles,
    untiled,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
VECTOR_BYTES = 16  # that a thread loads at a time
LANES_FORWARD, LANES_BACKWARD = 1, 2  # threads of a warp that share a channel's states


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
        from models.selective_scan.triton_kernels import scan_forward_kernel

        scan = with_aligned_projections(scan)
        out, kept = outputs = self.empty_outputs(scan, keep)
        u, delta, A, B, *_ = scan.directions[0]
        groups, state = B.shape[1], A.shape[1]
        with on_device_of(out):
            scan_forward_kernel[grid_of(u, groups, state)](
                *_inputs(scan, stand_in=out),
                *(out if scan.z is None else scan.z, out, *kept),
                *_sizes(scan),
                *u.stride()[:2],
                *delta.stride()[:2],
                *B.stride()[:3],
                *((0, 0) if scan.z is None else scan.z.stride()[:2]),
                zero=0,
                **_flags(scan),
                KEEP_STATES=keep,
                **tile_sizes(state, LANES_FORWARD),
                num_warps=1,
            )
        return outputs

    def backward(self, scan: Scan, grad_out: Tensor, kept: Kept, targets: Targets) -> Gradients:
        from models.selective_scan.triton_kernels import scan_backward_kernel

        scan = with_aligned_projections(scan)
        grad_out = grad_out if grad_out.stride(2) == 1 else grad_out.contiguous()
        u, delta, _, B, *_ = scan.directions[0]
        directions, (batch, groups, length, state), dim = len(scan.directions), B.shape, u.shape[2]
        (programs, _), states = grid_of(u, groups, state), kept.states
        grad_u, grad_delta, *_ = self.empty_gradients(scan)
        grad_z = u.new_empty(0) if scan.z is None else scan.z.new_empty(u.shape)
        parts = states.new_empty((directions, 2, batch, programs, length, state))
        grad_A = states.new_empty((directions, batch, programs, *states.shape[-2:]))
        grad_D, grad_bias = states.new_empty((2, directions, batch, dim))
        with on_device_of(states):
            scan_backward_kernel[(programs, batch, directions)](
                grad_out,
                *_inputs(scan, stand_in=states),
                *((states, states) if scan.z is None else (scan.z, kept.y)),
                states,
                *(tuple(grad_u.unbind()), tuple(grad_delta.unbind()), grad_z, parts, grad_A, grad_D, grad_bias),
                *_sizes(scan),
                *grad_out.stride()[:2],
                *u.stride()[:2],
                *delta.stride()[:2],
                *B.stride()[:3],
                *((0, 0) if scan.z is None else scan.z.stride()[:2]),
                zero=0,
                **_flags(scan),
                **tile_sizes(state, LANES_BACKWARD),
                num_warps=1,
            )
        targets.BC.copy_(parts.unflatten(3, (groups, -1)).sum(4))
        if targets.z is not None:
            targets.z.copy_(grad_z)
        grad_A = untiled(grad_A.sum(1), groups, dim, state)
        return Gradients(grad_u, grad_delta, grad_A, grad_D.sum(1), grad_bias.sum(1))


scan_channel_last = ScanOperator("triton_scan", TritonPasses())


def scan_triton(scan: Scan) -> Tensor:
    """Compute the scan; the result has the memory order of u."""
    out, u = scan_channel_last(scan), scan.directions[0].u
    return out if u.stride(2) <= u.stride(1) else out.transpose(1, 2).contiguous().transpose(1, 2)


def _inputs(scan: Scan, stand_in: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """The kernels' arguments u to bias: an entry per direction, stand_in for a missing D or bias."""
    u, delta, A, B, C, D, delta_bias, _ = zip(*scan.directions, strict=True)
    optional = (tuple(stand_in if x is None else x for x in each) for each in (D, delta_bias))
    return u, delta, tuple(tiles(each, B[0].shape[1]) for each in A), B, C, *optional


def _sizes(scan: Scan) -> tuple[int, int, int, float]:
    (_, length, dim), groups = scan.directions[0].u.shape, scan.directions[0].B.shape[1]
    return length, dim, dim // groups, scan.scale


def _flags(scan: Scan) -> dict[str, Any]:
    first = scan.directions[0]
    return {
        "DIRECTIONS": len(scan.directions),
        "REVERSE": first.reverse,
        "LOG_A": scan.log_A,
        "HAS_D": first.D is not None,
        "HAS_Z": scan.z is not None,
        "HAS_BIAS": first.delta_bias is not None,
        "SOFTPLUS": scan.delta_softplus,
    }


def on_device_of(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
