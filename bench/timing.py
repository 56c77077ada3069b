"""Time calls on a CPU or a GPU, and measure the limits of the machine to compare them with."""

import time
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)

COPIED = 1 << 26  # float32 elements of a copy, far more than any cache holds
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CALLS_ON_A_GPU = 10  # per measurement, so that launching a call overlaps with running another, as in training
LONG_SECONDS = 0.1  # a GPU call that takes longer is measured by itself


def seconds_of(run: Callable[[], object], device_type: str) -> float:
    """Seconds of a call. On a GPU, the mean of several calls in a row unless one call takes long."""
    if device_type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    once = _mean_on_gpu(run, 1)
    return once if once > LONG_SECONDS else _mean_on_gpu(run, CALLS_ON_A_GPU)


def _mean_on_gpu(run: Callable[[], object], calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def take_turns(runs: Mapping[K, Callable[[], object]], repeats: int, device_type: str) -> dict[K, float]:
    """The shortest time of each call in seconds. The calls take turns, so that a slow spell of the machine hits all."""
    best = dict.fromkeys(runs, float("inf"))
    for turn in range(repeats + 1):
        for name, run in runs.items():
            seconds = seconds_of(run, device_type)
            if turn > 0:  # the first turn compiles and warms up
                best[name] = min(best[name], seconds)
    return best


def copy_rate(device_type: str) -> float:
    """Bytes per second that a large copy reads and writes together."""
    source = torch.zeros(COPIED, device=device_type)
    target = torch.empty_like(source)
    return 2 * 4 * COPIED / take_turns({"copy": partial(target.copy_, source)}, 8, device_type)["copy"]


def matmul_rate(device_type: str, precision: str = "fp32") -> float:
    """Floating-point operations per second of a matrix product. fp32 means full precision, also on a GPU."""
    size, dtype = 1024 if device_type == "cpu" else 8192, DTYPES[precision]
    a, b = (torch.randn(size, size, device=device_type).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return 2 * size**3 / take_turns({"product": partial(torch.mm, a, b)}, 8, device_type)["product"]
    finally:
        torch.set_float32_matmul_precision(before)
