"""Triton kernels compiled for NVIDIA GPUs on a machine that needs none, and what their machine code says about speed.

Wrappers run on tensors of the CPU up to each launch, which compiles the kernel for the arguments at hand, as a launch
does, and leaves it at that: what is computed is rubbish. So the variants are those that the wrappers ask for.
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import jit

HOPPER, AMPERE = 90, 80
# Of a multiprocessor, sm_80 and sm_90 alike: its parts, the registers of each, and the warps and programs that it holds
PARTS, REGISTERS_PER_PART, MOST_WARPS, MOST_PROGRAMS = 4, 2**14, 64, 32

# Units of a multiprocessor: numbers per clock (a warp is 32 of them), and the instructions that each executes. Whoever
# is not named is integer arithmetic, logic, comparison or control. A load or store of 64 or 128 bits counts as 2 or 4.
LANES = {"issue": 128, "multiply-add": 128, "exponential": 16, "integer": 64, "load-store": 32}
UNITS = {
    "multiply-add": r"FFMA|FMUL|FADD|HFMA2|HADD2|HMUL2|IMAD|UIMAD",
    "exponential": r"MUFU",
    "load-store": r"LDG|STG|LDS|LDSM|STS|LDL|STL|SHFL",
}


class Launch(NamedTuple):
    """A launch that was compiled and not run."""

    compiled: Any
    constants: dict[str, Any]  # the arguments that were given by name


class Loop(NamedTuple):
    """An innermost loop. `instructions` are those of one turn, on average: it is taken that what a jump within the loop
    skips runs in every second turn."""

    instructions: Counter[str]  # by name, without modifiers but those of width
    spills: list[str]  # that fetch or store numbers for which there was no register


class Kernel(NamedTuple):
    name: str
    ptx: str
    registers: int  # of a thread
    stack_bytes: int  # of a thread: numbers that the registers had no room for
    spills: list[str]  # of innermost loops
    shared_bytes: int
    num_warps: int
    loops: list[Loop]

    @property
    def needs(self) -> dict[str, Any]:
        return {name: value for name, value in self._asdict().items() if name not in ("ptx", "loops")}

    @property
    def warps_per_multiprocessor(self) -> int:
        """As many as have room for their registers, which are handed out eight at a time."""
        room = PARTS * (REGISTERS_PER_PART // (32 * -(-self.registers // 8) * 8))
        return min(room // self.num_warps, MOST_PROGRAMS, MOST_WARPS // self.num_warps) * self.num_warps

    def instructions_per_update(self, constants: dict[str, Any]) -> Counter[str]:
        """Of a scan kernel, by unit and "issue" for all: per (channel, step, state), a thread's work beside the states
        included. The mean over its longest loops, of which there is one per direction or one for both."""
        longest = max(sum(loop.instructions.values()) for loop in self.loops)
        main = [loop for loop in self.loops if sum(loop.instructions.values()) > longest / 2]
        updates = len(main) * constants["HALF"] * constants["NR"] * constants["CR"]
        counts: Counter[str] = Counter()
        for loop in main:
            for name, number in loop.instructions.items():
                unit = unit_of(name)
                counts[unit] += number * (width_of(name) if unit == "load-store" else 1) / updates
                counts["issue"] += number / updates
                if name.startswith("SHFL"):
                    counts["shuffle"] += number / updates
        return counts


def compile_only(arch: int, set_attribute: Callable[[Any, str, Any], None]) -> list[Launch]:
    """A list that fills with the kernels launched from now on, compiled for GPUs like sm_ARCH.

    Args: set_attribute: how Triton is changed for that, like monkeypatch.setattr.
    """
    run = jit.JITFunction.run
    seen: list[Launch] = []

    def compile_it(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        seen.append(Launch(compiled, kwargs))
        return compiled

    device = SimpleNamespace(  # its number is the architecture: kernels are kept by device
        get_current_device=lambda: arch,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", arch, 32),
    )
    set_attribute(jit, "driver", SimpleNamespace(active=device))
    set_attribute(jit.JITFunction, "run", compile_it)
    return seen


def examine(launch: Launch) -> Kernel:
    """What the machine code needs, as the disassemblers that come with Triton tell it."""
    compiled, tools = launch.compiled, triton.knobs.nvidia
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        usage = _output_of(tools.cuobjdump.path, "--dump-resource-usage", str(binary))
        loops = innermost_loops(_output_of(tools.nvdisasm.path, "-c", str(binary)))
    registers, stack, local = (int(re.findall(rf"\b{key}:(\d+)", usage)[0]) for key in ("REG", "STACK", "LOCAL"))
    spills, about = [each for loop in loops for each in loop.spills], compiled.metadata
    return Kernel(
        *(compiled.name, compiled.asm["ptx"], registers, stack + local, spills, about.shared, about.num_warps, loops)
    )


def unit_of(name: str) -> str:
    return next((unit for unit, names in UNITS.items() if re.match(rf"({names})\b", name)), "integer")


def width_of(name: str) -> int:
    """32-bit numbers per thread of a load or store."""
    return 4 if name.endswith(".128") else 2 if name.endswith(".64") else 1


def innermost_loops(assembly: str) -> list[Loop]:
    """From a label to a jump back to it, with no such jump in between."""
    places: dict[str, int] = {}
    code: list[str] = []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            places[label[1]] = len(code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            code.append(instruction[1])
    found = ((end, re.search(r"\bBRA\b.*?(\.L_x_\d+)", each)) for end, each in enumerate(code))
    jumps = [(places[jump[1]], start) for start, jump in found if jump]
    back = [(to, start) for to, start in jumps if to < start]
    inner = [(a, b) for a, b in back if not any(a <= c and d < b for c, d in back)]
    return [_loop(code, first, last, jumps) for first, last in inner]


def _loop(code: list[str], first: int, last: int, jumps: list[tuple[int, int]]) -> Loop:
    skipped = [range(start + 1, to) for to, start in jumps if first <= start < to <= last]
    counts: Counter[str] = Counter()  # halves, too
    for place in range(first, last + 1):
        counts[_name_of(code[place])] += 0.5 if any(place in each for each in skipped) else 1  # type: ignore[assignment]
    spills = [each for each in code[first : last + 1] if re.search(r"\b(LDL|STL)\b", each)]
    return Loop(counts, spills)


def _name_of(instruction: str) -> str:
    name = re.sub(r"^@\S+\s+", "", instruction).split()[0]
    width = re.search(r"\.(64|128)\b", name)
    return name.split(".")[0] + (f".{width[1]}" if width else "")


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
