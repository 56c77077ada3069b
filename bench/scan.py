"""Selective scan: every available backend against the reference loop, forward and forward + backward.

    python -m bench.scan [--repeats 7] [--dtype float32]

Times are the minimum over interleaved repeats (all backends take turns), in ms. "of copy" and "of matmul" say how far
the scan is from the machine's limits: the bytes that must cross memory over the measured bandwidth of a large copy, and
the kernel's floating-point operations over the measured rate of a float32 matrix product.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from models.selective_scan import selective_scan
from models.selective_scan.interface import available_backends

SHAPES = [(8, 384, 197, 16), (8, 1536, 197, 16)]  # batch, dim, length, state
# Per channel, step and state, a fused multiply-add counting two: an exponential takes 15, the forward recurrence 5; the
# backward pass repeats them with two more for C and has 12 of its own.
FLOPS = {"forward": 20, "forward + backward": 20 + 22 + 12}
# Tensors of u's size that are read or written at least once: u, delta, z, out; then those three again, the gradient of
# the output and three gradients.
TENSORS = {"forward": 4, "forward + backward": 4 + 7}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the selective scan's backends against the reference loop.")
    parser.add_argument("--repeats", type=int, default=7, help="turns of every backend; the minimum counts")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of u, delta and z")
    arguments = parser.parse_args()
    copy_rate, matmul_rate = measure_copy(), measure_matmul()
    print(f"{torch.get_num_threads()} threads, copy {copy_rate / 1e9:.1f} GB/s, matmul {matmul_rate / 1e9:.0f} GFLOP/s")
    print(
        f"{'shape':19} {'memory':13} {'pass':19} {'backend':10} {'ms':>8} {'ratio':>7} {'of copy':>8} {'of matmul':>9}"
    )
    for shape in SHAPES:
        for channel_last in (False, True):
            inputs = make_inputs(*shape, channel_last=channel_last, dtype=getattr(torch, arguments.dtype))
            for what, times in time_backends(inputs, arguments.repeats).items():
                moved = TENSORS[what] * inputs["u"].numel() * inputs["u"].element_size()
                flops = FLOPS[what] * inputs["u"].numel() * shape[-1]
                for name, seconds in times.items():
                    print(
                        f"{shape!s:19} {'channel-last' if channel_last else 'length-last':13} {what:19} {name:10}"
                        f" {seconds * 1e3:8.2f} {times['reference'] / seconds:6.1f}x"
                        f" {moved / copy_rate / seconds:8.1%} {flops / matmul_rate / seconds:9.1%}"
                    )


def make_inputs(
    batch: int, dim: int, length: int, state: int, *, channel_last: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors of one direction of a Vim mixer, random, with gradients required."""
    generator = torch.Generator().manual_seed(0)

    def sequence(channels: int, dtype: torch.dtype) -> Tensor:
        shape = (batch, length, channels) if channel_last else (batch, channels, length)
        x = torch.randn(shape, generator=generator).to(dtype)
        return x.transpose(1, 2) if channel_last else x

    inputs = {
        "u": sequence(dim, dtype),
        "delta": sequence(dim, dtype),
        "A": -torch.arange(1.0, state + 1).repeat(dim, 1),
        "B": sequence(state, torch.float32),
        "C": sequence(state, torch.float32),
        "D": torch.ones(dim),
        "z": sequence(dim, dtype),
        "delta_bias": torch.rand(dim, generator=generator) - 4,
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def time_backends(inputs: dict[str, Tensor], repeats: int) -> dict[str, dict[str, float]]:
    """Pass -> backend -> seconds."""
    grad = torch.randn_like(inputs["u"])

    def forward(name: str) -> None:
        with torch.no_grad():
            scan(inputs, name)

    def both(name: str) -> None:
        torch.autograd.grad(scan(inputs, name), list(inputs.values()), grad)

    return {
        "forward": take_turns(forward, repeats, inputs["u"].device.type),
        "forward + backward": take_turns(both, repeats, inputs["u"].device.type),
    }


def scan(inputs: dict[str, Tensor], backend: str) -> Tensor:
    return selective_scan(**inputs, delta_softplus=True, backend=backend)  # type: ignore[arg-type]


def take_turns(run: Callable[[str], None], repeats: int, device_type: str) -> dict[str, float]:
    names = available_backends(device_type, torch.float32)
    best = dict.fromkeys(names, float("inf"))
    for _ in range(repeats + 1):  # the first turn warms up, and never is the best
        for name in names:
            best[name] = min(best[name], seconds_of(partial(run, name)))
    return best


def measure_copy() -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / min(seconds_of(lambda: target.copy_(source)) for _ in range(8))


def measure_matmul() -> float:
    """Floating-point operations per second of a float32 matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds_of(lambda: a @ b) for _ in range(10))


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
