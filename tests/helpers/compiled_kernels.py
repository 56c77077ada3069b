"""Triton kernels compiled for NVIDIA GPUs, down to machine code, on a machine that needs none.

The wrappers run on tensors of the CPU up to each launch, which compiles the kernel for the arguments at hand, as a
launch does, and leaves it at that: what is computed is rubbish. So the variants are those that the wrappers ask for.
"""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import jit

HOPPER, AMPERE = 90, 80


class Kernel(NamedTuple):
    name: str
    ptx: str
    registers: int  # of a thread
    stack_bytes: int  # of a thread: numbers that the registers had no room for
    spills: list[str]  # instructions of innermost loops that fetch or store such numbers
    shared_bytes: int
    num_warps: int


def compile_only(monkeypatch: pytest.MonkeyPatch, arch: int) -> list[Any]:
    """A list that fills with the kernels launched from now on, compiled for GPUs like sm_ARCH."""
    run = jit.JITFunction.run
    seen: list[Any] = []

    def compile_it(self, *args, grid, warmup, **kwargs):
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        seen.append(compiled)
        return compiled

    device = SimpleNamespace(  # its number is the architecture: kernels are kept by device
        get_current_device=lambda: arch,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
    )
    monkeypatch.setattr(jit, "driver", SimpleNamespace(active=device))
    monkeypatch.setattr(jit.JITFunction, "run", compile_it)
    return seen


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
