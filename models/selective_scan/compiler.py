"""Compile cpu_kernel.c and its headers with the system's C compiler on first use, and load the library.

The library is kept in $MAMBA_TBPS_CACHE, else $XDG_CACHE_HOME/mamba_tbps, else ~/.cache/mamba_tbps. Its name changes
with the source, the compiler and the flags. The compiler is $CC, else cc, gcc or clang on the PATH.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("cpu_kernel.c")
SOURCES = [SOURCE, *sorted(SOURCE.parent.glob("cpu_*.h"))]
FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi"]
# Instruction sets from the widest to the narrowest: name -> (compiler flags, floats per vector).
X86_SETS = {
    "avx512": (["-mavx512f", "-mavx512dq", "-mfma"], 16),
    "avx2": (["-mavx2", "-mfma"], 8),
    "plain": ([], 4),
}
OTHER_SETS = {"plain": X86_SETS["plain"]}


class KernelUnavailable(RuntimeError):
    """The kernel cannot be built or loaded here. The message gives the reason in one line."""


class Kernel(NamedTuple):
    """The compiled functions for one instruction set; they return 0 on success.

    The first two take a pointer to `struct scan`, the others one to `struct conv`.
    """

    name: str
    lanes: int
    forward: Callable[..., int]
    backward: Callable[..., int]
    conv_forward: Callable[..., int]
    conv_backward: Callable[..., int]


FUNCTIONS = Kernel._fields[2:]


@functools.cache
def load_kernels() -> list[Kernel]:
    """The kernels that this processor can run, fastest first. Raises KernelUnavailable."""
    sets = X86_SETS if platform.machine().lower() in ("x86_64", "amd64") else OTHER_SETS
    try:
        library = ctypes.CDLL(str(_library(sets)))
    except OSError as error:
        raise KernelUnavailable(f"{error} (set MAMBA_TBPS_CACHE to a writable folder)") from error
    functions = {name: [getattr(library, f"{what}_{name}") for what in FUNCTIONS] for name in sets}
    return [
        Kernel(name, lanes, *functions[name])
        for name, (_, lanes) in sets.items()
        if getattr(library, f"supported_{name}")()
    ]


def _library(sets: dict[str, tuple[list[str], int]]) -> Path:
    """Path of the compiled library. Builds it if it is not in the cache."""
    compiler = _compiler()
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [*(path.read_text() for path in SOURCES), *compiler, version, *FLAGS, repr(sets)]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder()
    path = folder / f"selective_scan-{platform.machine()}-{key}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    # Built in a folder of its own, then renamed: another process sees the whole file or none; the last one wins.
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        built = _compile(compiler, sets, Path(aside))
        os.replace(built, path)
    logger.info("built the CPU kernel in %.1f s: %s", time.perf_counter() - started, path)
    return path


def cache_folder() -> Path:
    if "MAMBA_TBPS_CACHE" in os.environ:
        return Path(os.environ["MAMBA_TBPS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mamba_tbps"


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    candidates = [named] if named else [["cc"], ["gcc"], ["clang"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    raise KernelUnavailable(
        f"no C compiler ({' '.join(named) or 'cc, gcc, clang'} not found); install gcc or clang, or set CC"
    )


def _compile(compiler: list[str], sets: dict[str, tuple[list[str], int]], folder: Path) -> Path:
    """Compile the source for each instruction set and link. Without OpenMP, the library uses one thread."""
    try:
        return _compile_with(compiler, ["-fopenmp"], sets, folder)
    except KernelUnavailable as error:
        library = _compile_with(compiler, [], sets, folder)
        logger.warning("the CPU kernel uses one thread, as the compiler has no OpenMP: %s", error)
        return library


def _compile_with(compiler: list[str], flags: list[str], sets: dict[str, tuple[list[str], int]], folder: Path) -> Path:
    objects = {name: str(folder / f"{name}.o") for name in sets}
    _run_all(
        [*compiler, *FLAGS, *flags, *own_flags, f"-DSUFFIX={name}", "-c", str(SOURCE), "-o", objects[name]]
        for name, (own_flags, _) in sets.items()
    )
    library = folder / "library.so"
    _run_all([[*compiler, "-shared", *flags, *objects.values(), "-o", str(library)]])
    return library


def _run_all(commands: Iterable[list[str]]) -> None:
    """Run commands in parallel. Raises KernelUnavailable with the first error message."""
    running = [
        subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for each in commands
    ]
    messages = [(process.communicate()[1], process.returncode) for process in running]
    for message, status in messages:
        if status:
            lines = [line for line in message.splitlines() if "error" in line] or message.splitlines() or ["no message"]
            raise KernelUnavailable(f"the C compiler failed: {lines[0]}")
