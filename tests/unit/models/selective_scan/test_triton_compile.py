"""The Triton kernels compiled for NVIDIA GPUs: what their machine code needs."""

import os
import re
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch

from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import bidirectional, selective_scan, triton_scan
from models.selective_scan.interface import BACKENDS

pytest.importorskip("triton")
compiled_kernels = pytest.importorskip("tests.helpers.compiled_kernels")

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there")
HOPPER, AMPERE = compiled_kernels.HOPPER, compiled_kernels.AMPERE
LEAST_WARPS_PER_SM = 8  # that have room for their registers
MOST_SHARED_BYTES = 1024  # of a program of one warp; 228 KiB of an H100's SM are there for all its programs
MOST_STACK_BYTES = 64  # a few numbers put aside before a loop and fetched behind it


class Bounds(NamedTuple):
    """What a kernel reached for a mixer in bfloat16, with a little room."""

    most_instructions: float  # per (channel, step, state), as the next two
    most_exponentials: float
    most_shuffles: float
    least_warps: int


REACHED = {
    "scan_forward_kernel": Bounds(11.8, 1.2, 0, 24),
    "scan_backward_kernel": Bounds(33.5, 2.9, 1.8, 8),
    "segment_scan_kernel": Bounds(8.5, 1.3, 0, 24),
}


@pytest.fixture
def launches(monkeypatch):
    """launches(arch) -> a list that fills with the kernels launched from now on, compiled for GPUs like sm_ARCH."""
    monkeypatch.setattr(triton_scan, "obstacle", lambda *_: None)
    monkeypatch.setattr(bidirectional, "can_convolve", lambda *_: False)  # a CPU's kernel, for a CPU's tensors
    monkeypatch.setitem(BACKENDS, "triton", BACKENDS["triton"]._replace(obstacle=lambda *_: None))
    return partial(compiled_kernels.compile_only, monkeypatch)


def check(kernels: list[Any], names: list[str]) -> None:
    examined = [compiled_kernels.examine(each) for each in kernels]
    assert [each.name for each in examined] == [f"{name}_kernel" for name in names]
    for kernel in examined:
        assert kernel.spills == [], kernel.needs
        assert kernel.stack_bytes <= MOST_STACK_BYTES, kernel.needs
        assert kernel.shared_bytes <= MOST_SHARED_BYTES, kernel.needs
        assert kernel.warps_per_multiprocessor >= LEAST_WARPS_PER_SM, kernel.needs
        # Sums whose order is open would differ from run to run.
        assert re.findall(r"\b(?:atom|red)\.\S+", kernel.ptx) == []
        assert ".f64" not in kernel.ptx  # float32 throughout


def check_speed(launches: list[Any]) -> None:
    """What the scan's kernels reached is kept."""
    found = [each for each in launches if "NR" in each.constants]
    assert found
    for launch in found:
        kernel = compiled_kernels.examine(launch)
        counts, bounds = kernel.instructions_per_update(launch.constants), REACHED[kernel.name]
        assert counts["issue"] <= bounds.most_instructions, (counts, kernel.needs)
        assert counts["exponential"] <= bounds.most_exponentials, (counts, kernel.needs)
        assert counts["shuffle"] <= bounds.most_shuffles, (counts, kernel.needs)
        assert kernel.warps_per_multiprocessor >= bounds.least_warps, (counts, kernel.needs)


def run_mixer(*, length: int = 197, state: int = 16, dtype: torch.dtype | None = None, training: bool = True) -> None:
    """A Vim mixer by way of the Triton kernels, with autocast to dtype if there is one."""
    mixer = BidirectionalMambaMixer(96, d_state=state, scan_backend="triton")
    tokens = torch.zeros(2, length, 96)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None), torch.set_grad_enabled(training):
        out = mixer(tokens)
    if training:
        out.sum().backward()


def run_scan(
    *, batch=2, dim=48, length=33, state=16, groups=1, gated=True, dtype=torch.float32, **options: Any
) -> None:
    """One direction, forward and backward, of inputs in the memory order of convolutions, which is copied."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, requires_grad=True)

    sequences = {name: zeros(batch, dim, length, dtype=dtype) for name in ("u", "delta", *(["z"] if gated else []))}
    parameters = {name: zeros(dim) for name in (("D", "delta_bias") if gated else ())}
    B, C = (zeros(batch, groups, state, length, dtype=dtype) for _ in range(2))
    out = selective_scan(A=zeros(dim, state), B=B, C=C, **sequences, **parameters, backend="triton", **options)
    out.sum().backward()


TRAINING = ["conv_forward", "scan_forward", "scan_backward", "sum_projections", "sum_parameters", "conv_backward"]


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_mixer_in_training(launches, dtype):
    kernels = launches(HOPPER)
    run_mixer(dtype=dtype)
    check(kernels, TRAINING)


@pytest.mark.parametrize("arch", [HOPPER, AMPERE])
def test_instructions_and_occupancy_of_a_mixer_in_training(launches, arch):
    kernels = launches(arch)
    run_mixer(dtype=torch.bfloat16)
    check(kernels, TRAINING)
    check_speed(kernels)


def test_a_mixer_whose_sequences_are_split_along_time(launches, monkeypatch):
    monkeypatch.setattr(triton_scan, "multiprocessors", lambda device: 132)
    kernels = launches(HOPPER)
    run_mixer(length=300, dtype=torch.bfloat16)
    segments = ["segment_scan", "segment_states"]
    check(kernels, [TRAINING[0], *segments, TRAINING[1], *segments, *TRAINING[2:]])
    check_speed(kernels)


def test_a_mixer_in_evaluation(launches):
    kernels = launches(HOPPER)
    run_mixer(dtype=torch.bfloat16, training=False)
    check(kernels, TRAINING[:2])
    check_speed(kernels)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "state": 4, "dim": 8, "delta_softplus": True},
        {"gated": False, "reverse": True},
        {"batch": 1, "dim": 1, "length": 1, "state": 1},  # numbers that are 1 are constants to the compiler
        {"state": 5, "dtype": torch.bfloat16, "delta_softplus": True},
        {"state": 64, "delta_softplus": True},
    ],
    ids=["groups", "bare", "ones", "odd states", "many states"],
)
def test_one_direction(launches, options):
    kernels = launches(HOPPER)
    run_scan(**options)
    check(kernels, ["scan_forward", "scan_backward", "sum_projections", "sum_parameters"])
