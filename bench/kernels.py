"""The Triton kernels of the scan as machine code: what limits them, told without a GPU.

    python -m bench.kernels [--arch 90 80] [--dtype bfloat16 float32] [--shape 64 1536 197 16]

Every variant that the wrappers launch for a mixer is compiled and disassembled: registers, the warps per multiprocessor
that they leave room for, spills in loops, and instructions per (channel, step, state) by unit. From these follows the
least time of a launch of the given shape on an H200, by its busiest unit or by the bytes that it moves. This is a
prediction, and a limit: a kernel that waits for its loads takes longer, the more so the fewer warps there are.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import ExitStack
from unittest import mock

import torch
from torch import Tensor

from bench.machine_code import LANES, Launch, compile_only, examine
from models.selective_scan import triton_scan
from models.selective_scan.custom_operator import Targets
from models.selective_scan.directions import Direction, Scan

MULTIPROCESSORS, CLOCK, BYTES_PER_SECOND = 132, 1.98e9, 4.8e12  # of an H200 at its boost clock
BATCH, DIM, STATE, RANK = 2, 1536, 16, 48  # a mixer of Vim-B; the batch changes no kernel
SHORT, LONG = 40, 512
CASES = ("training", "evaluation", "split along time")
# Float32 numbers beside the sequences, in bytes per channel, step and direction: the states that are kept every 8
# steps, and B's and C's gradients of 32 channels
KEPT_BYTES, PART_BYTES = 4 * STATE / 8, 4 * 2 * STATE / 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Tell the limits of the scan's Triton kernels from their machine code."
    )
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], help="90: H100, H200; 80: A100")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], help="of u, delta, z, B and C")
    parser.add_argument("--shape", type=int, nargs=4, default=[64, DIM, 197, STATE], metavar=("B", "D", "L", "N"))
    arguments = parser.parse_args()
    print(f"limits at {tuple(arguments.shape)}, both directions, {MULTIPROCESSORS} multiprocessors, {CLOCK / 1e9} GHz")
    print(
        f"{'sm':>3} {'dtype':8} {'kernel':28} {'regs':>4} {'warps':>5} {'stack':>5} {'spills':>6} {'shared':>6}"
        f" {'instr':>6} {'fma':>5} {'exp':>5} {'int':>5} {'load':>5} {'shfl':>5} {'ms':>6} limited by"
    )
    for arch in arguments.arch:
        for dtype in arguments.dtype:
            for case in CASES:
                for launch in launches(arch, getattr(torch, dtype), case):
                    print(row_of(launch, arch, dtype, case, arguments.shape), flush=True)


def launches(arch: int, dtype: torch.dtype, case: str) -> Iterator[Launch]:
    """The kernels of both directions of a mixer, as the wrappers launch them, compiled for sm_ARCH."""
    with ExitStack() as stack:
        seen = compile_only(arch, lambda owner, name, value: stack.enter_context(mock.patch.object(owner, name, value)))
        if case == CASES[2]:
            stack.enter_context(mock.patch.object(triton_scan, "multiprocessors", return_value=MULTIPROCESSORS))
        run(dtype, LONG if case == CASES[2] else SHORT, training=case != CASES[1])
    yield from seen


def run(dtype: torch.dtype, length: int, *, training: bool) -> None:
    """What a mixer asks of the scan, with rubbish for results."""
    sequences = torch.zeros(2, BATCH, length, DIM, dtype=dtype)
    z = torch.zeros(BATCH, length, 2 * DIM, dtype=dtype)[..., DIM:]  # as in_proj leaves it
    projected = torch.zeros(2, BATCH, length, RANK + 2 * STATE, dtype=dtype)
    A, of_channel = torch.zeros(DIM, STATE), torch.zeros(DIM)

    def B_and_C(x: Tensor) -> Tensor:
        """(2, batch, length, RANK + 2 * STATE) -> (2, B and C, batch, one group, length, state)."""
        return x[..., RANK:].unflatten(-1, (2, STATE)).permute(0, 3, 1, 2, 4).unsqueeze(3)

    B, C = B_and_C(projected).unbind(1)
    directions = tuple(
        Direction(sequences[d], sequences[d], A, B[d], C[d], of_channel, of_channel, reverse=d == 1) for d in range(2)
    )
    scan = Scan(directions, z, delta_softplus=True, log_A=True, scale=0.5)
    passes = triton_scan.TritonPasses()
    out, kept = passes.forward(scan, keep=training)
    if training:
        passes.backward(scan, out, kept, Targets(torch.zeros_like(z), B_and_C(torch.zeros_like(projected))))


def row_of(launch: Launch, arch: int, dtype: str, case: str, shape: list[int]) -> str:
    kernel = examine(launch)
    name = kernel.name.removesuffix("_kernel")
    label = f"{name}{'' if case == CASES[0] else ', ' + case.split()[0]}"
    if name == "segment_scan" and launch.constants["OF_GRADIENT"]:
        label = "segment_scan, of gradient"
    row = (
        f"{arch:3} {dtype:8} {label:28} {kernel.registers:4} {kernel.warps_per_multiprocessor:5} {kernel.stack_bytes:5}"
        f" {len(kernel.spills):6} {kernel.shared_bytes:6}"
    )
    if "NR" not in launch.constants:
        return row
    counts = kernel.instructions_per_update(launch.constants)
    seconds = {unit: math.prod(shape) * 2 * counts[unit] / (LANES[unit] * MULTIPROCESSORS * CLOCK) for unit in LANES}
    seconds["memory"] = bytes_of(name, shape, getattr(torch, dtype).itemsize, case) / BYTES_PER_SECOND
    busiest = max(seconds, key=lambda unit: seconds[unit])
    columns = ("issue", "multiply-add", "exponential", "integer", "load-store", "shuffle")
    figures = " ".join(f"{counts[unit]:{6 if unit == 'issue' else 5}.2f}" for unit in columns)
    return f"{row} {figures} {seconds[busiest] * 1e3:6.3f} {busiest}"


def bytes_of(name: str, shape: list[int], itemsize: int, case: str) -> float:
    """That must cross memory: sequences once per direction, the gate once, kept states and parts of sums."""
    batch, dim, length, _ = shape
    keeps = case != CASES[1]
    per_step = {
        # u and delta of two directions; y written, read and, where it is kept, written; z; out
        "scan_forward": (2 * 2 + 2 + keeps + 2) * itemsize + 2 * KEPT_BYTES * keeps,
        # u, delta, both their gradients, the output's and z of two directions; y and z's gradient
        "scan_backward": (2 * 6 + 2) * itemsize + 2 * (KEPT_BYTES + PART_BYTES),
        "segment_scan": 2 * 2 * itemsize,
    }[name]
    return batch * dim * length * per_step


if __name__ == "__main__":
    main()
