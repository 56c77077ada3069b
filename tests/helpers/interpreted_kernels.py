"""Triton kernels in Triton's interpreter, which computes step by step with NumPy on the CPU, or on a GPU.

The interpreter has to be asked for before Triton is imported, hence a process of its own: a test file on kernels starts
itself once more by `run_interpreted`, and its tests marked `on_kernels` run there, or where there is a GPU.
"""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
from packaging.version import Version

from tests.helpers.paths import REPOSITORY

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def interpreter_works() -> bool:
    """Triton's interpreter before 3.7 turns arrays into Python numbers in a way that NumPy 2.4 no longer allows."""
    if importlib.util.find_spec("triton") is None:
        return False
    triton, numpy = (Version(version(name)) for name in ("triton", "numpy"))
    return triton >= Version("3.7") or numpy < Version("2.4")


def on_kernels(test: Any) -> Any:
    """Run the test in the interpreter's process or on a GPU."""
    return test if INTERPRETED else pytest.mark.gpu(test)


def starts_the_interpreter(test: Any) -> Any:
    """Marks the one test of a file that calls `run_interpreted`."""
    test = pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")(test)
    reason = "needs Triton, and NumPy below 2.4 for Triton below 3.7"
    return pytest.mark.skipif(not interpreter_works(), reason=reason)(test)


def run_interpreted(file: str) -> None:
    """Run a test file in the interpreter."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
