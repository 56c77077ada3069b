"""Triton kernels compiled down to machine code for GPUs that are not there: bench/machine_code.py, in a test."""

import pytest

from bench import machine_code
from bench.machine_code import AMPERE, HOPPER, Kernel, Launch, examine

__all__ = ["AMPERE", "HOPPER", "Kernel", "Launch", "compile_only", "examine"]


def compile_only(monkeypatch: pytest.MonkeyPatch, arch: int) -> list[Launch]:
    """A list that fills with the kernels launched from now on, compiled for GPUs like sm_ARCH."""
    return machine_code.compile_only(arch, monkeypatch.setattr)
