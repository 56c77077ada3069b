"""The Triton kernels compiled for NVIDIA GPUs, down to machine code, on a machine that needs none.

The wrappers run on tensors of the CPU up to each launch, which compiles the kernel for the arguments at hand, as a
launch does, and leaves it at that: what is computed is rubbish. So the variants are those that the wrappers ask for.
"""

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import bidirectional, selective_scan, triton_scan
from models.selective_scan.interface import BACKENDS

triton = pytest.importorskip("triton")
jit = pytest.importorskip("triton.runtime.jit")
GPUTarget = pytest.importorskip("triton.backends.compiler").GPUTarget

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there")
HOPPER, AMPERE = 90, 80
REGISTERS_PER_SM = 2**16
LEAST_WARPS_PER_SM = 8  # that have room for their registers
MOST_SHARED_BYTES = 1024  # of a program of one warp; 228 KiB of an H100's SM are there for all its programs
MOST_STACK_BYTES = 64  # a few numbers put aside before a loop and fetched behind it


class Kernel(NamedTuple):
    name: str
    ptx: str
    registers: int  # of a thread
    stack_bytes: int  # of a thread: numbers that the registers had no room for
    spills: list[str]  # instructions of innermost loops that fetch or store such numbers
    shared_bytes: int
    num_warps: int


@pytest.fixture
def launches(monkeypatch):
    """launches(arch) -> a list that fills with the kernels launched from now on, compiled for GPUs like sm_ARCH."""
    run = jit.JITFunction.run
    seen: list[Any] = []

    def compile_only(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        seen.append(compiled)
        return compiled

    def start(arch: int) -> list[Any]:
        device = SimpleNamespace(  # its number is the architecture: kernels are kept by device
            get_current_device=lambda: arch,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", arch, 32),
        )
        monkeypatch.setattr(jit, "driver", SimpleNamespace(active=device))
        monkeypatch.setattr(jit.JITFunction, "run", compile_only)
        return seen

    monkeypatch.setattr(triton_scan, "obstacle", lambda *_: None)
    monkeypatch.setattr(bidirectional, "can_convolve", lambda *_: False)  # a CPU's kernel, for a CPU's tensors
    monkeypatch.setitem(BACKENDS, "triton", BACKENDS["triton"]._replace(obstacle=lambda *_: None))
    return start


def examine(compiled: Any, folder: Path) -> Kernel:
    """What the machine code needs, as the disassemblers that come with Triton tell it."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tools = triton.knobs.nvidia
    usage = output_of(tools.cuobjdump.path, "--dump-resource-usage", str(binary))
    registers, stack, local = (int(re.search(rf"\b{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    spills = [
        each
        for loop in innermost_loops(output_of(tools.nvdisasm.path, "-c", str(binary)))
        for each in loop
        if re.search(r"\b(LDL|STL)\b", each)
    ]
    about = compiled.metadata
    return Kernel(compiled.name, compiled.asm["ptx"], registers, stack + local, spills, about.shared, about.num_warps)


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of each: from a label to a jump back to it, with no such jump in between."""
    places, code = {}, []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = len(code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            code.append(instruction[1])
    jumps = ((end, re.search(r"\bBRA\b.*?(\.L_x_\d+)", each)) for end, each in enumerate(code))
    loops = [(places[jump[1]], end) for end, jump in jumps if jump and places[jump[1]] < end]
    inner = [(start, end) for start, end in loops if not any(start <= a and b < end for a, b in loops)]
    return [code[start : end + 1] for start, end in inner]


def check(kernels: list[Any], names: list[str], folder: Path) -> None:
    examined = [examine(each, folder) for each in kernels]
    assert [each.name for each in examined] == [f"{name}_kernel" for name in names]
    for kernel in examined:
        needs = {name: value for name, value in kernel._asdict().items() if name != "ptx"}
        assert kernel.spills == [], needs
        assert kernel.stack_bytes <= MOST_STACK_BYTES, needs
        assert kernel.shared_bytes <= MOST_SHARED_BYTES, needs
        registers = -(-kernel.registers // 8) * 8  # they are handed out eight at a time
        assert REGISTERS_PER_SM // (32 * registers) >= LEAST_WARPS_PER_SM, needs
        # Sums whose order is open would differ from run to run.
        assert re.findall(r"\b(?:atom|red)\.\S+", kernel.ptx) == []
        assert ".f64" not in kernel.ptx  # float32 throughout


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


TRAINING = ["conv_forward", "scan_forward", "scan_backward", "conv_backward"]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_mixer_in_training(launches, tmp_path, dtype):
    kernels = launches(HOPPER)
    run_mixer(dtype=dtype)
    check(kernels, TRAINING, tmp_path)


def test_a_mixer_in_training_on_an_older_gpu(launches, tmp_path):
    kernels = launches(AMPERE)
    run_mixer(dtype=torch.bfloat16)
    check(kernels, TRAINING, tmp_path)


def test_a_mixer_in_evaluation(launches, tmp_path):
    kernels = launches(HOPPER)
    run_mixer(dtype=torch.bfloat16, training=False)
    check(kernels, TRAINING[:2], tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2, "state": 4, "dim": 8, "delta_softplus": True},  # as the self-test
        {"gated": False, "reverse": True},
        {"batch": 1, "dim": 1, "length": 1, "state": 1},  # numbers that are 1 are constants to the compiler
        {"state": 5, "dtype": torch.bfloat16, "delta_softplus": True},
        {"state": 64, "delta_softplus": True},
    ],
    ids=["self-test", "bare", "ones", "odd states", "many states"],
)
def test_one_direction(launches, tmp_path, options):
    kernels = launches(HOPPER)
    run_scan(**options)
    check(kernels, ["scan_forward", "scan_backward"], tmp_path)
