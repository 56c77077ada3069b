"""Registration of fused operators, each with two implementations of the same function.

The plain one is made of PyTorch's own operators: it works on any device and dtype and defines the result. The kernel is
Triton's and launches once. Both sit inside one custom operator, mamba_tbps::NAME. So torch.compile, CUDA graphs and
whoever counts dispatched operators see one node, on a GPU as on a CPU.
"""

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # of the kernels; they compute in float32
TOLERANCE = 1e-3  # of the self-test, in float32, relative to the largest element


class Fused(NamedTuple):
    """The two implementations of an operator. Tensors come in contiguous; results are contiguous and alias nothing."""

    plain: Callable[..., Any]
    kernel: Callable[..., Any]
    examples: Callable[[str], Iterable[tuple[Any, ...]]]  # device type -> arguments of the self-test


OPERATORS: dict[str, Fused] = {}


def fused_operator(
    name: str,
    schema: str,
    *,
    plain: Callable[..., Any],
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    examples: Callable[[str], Iterable[tuple[Any, ...]]],
) -> Any:
    """Register mamba_tbps::NAME. Its arguments are given by position."""
    OPERATORS[name] = Fused(plain, kernel, examples)

    def run(*args: Any) -> Any:
        args = tuple(x.contiguous() if isinstance(x, Tensor) else x for x in args)
        tensors = [x for x in args if isinstance(x, Tensor)]
        # kernels cannot be launched without work
        takes = all(x.numel() > 0 and (x.dtype in FLOATS or not x.is_floating_point()) for x in tensors)
        if takes and use_kernels(name, tensors[0].device.type):
            with torch.cuda.device_of(tensors[0]):
                return kernel(*args)
        return plain(*args)

    operator = torch.library.custom_op(f"mamba_tbps::{name}", run, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


@functools.cache
def use_kernels(name: str, device_type: str) -> bool:
    """Whether the operator runs its Triton kernel on such a device.

    The first call on a GPU tries the kernel, once per process, so it must not fall into the capture of a CUDA graph.
    One line is logged if the kernel does not work.
    """
    if device_type != "cuda":
        return False
    reason = trouble(OPERATORS[name], device_type)
    if reason is not None:
        logger.warning("%s on %s runs without its Triton kernel: %s", name, device_type, reason)
    return reason is None


def trouble(operator: Fused, device_type: str) -> str | None:
    """None if the kernel works on this device, else the reason in one line."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        deviation = max(_deviation(operator, args) for args in operator.examples(device_type))
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        return f"{type(error).__name__}: {lines[0]}"
    if not deviation <= TOLERANCE:  # not `>`: NaN fails as well
        return f"its self-test is {deviation:.1e} away from the plain implementation"
    return None


def _deviation(operator: Fused, args: tuple[Any, ...]) -> float:
    """The largest deviation of the kernel's results from the plain ones, relative to the largest element of each."""
    got, want = (each(*args) for each in (operator.kernel, operator.plain))
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in pairs if y.numel() > 0)


def out_dtype_of(dtype: torch.dtype | None, x: Tensor, *others: Tensor) -> torch.dtype:
    """The dtype asked for; else autocast's if it is on for the device of x; else that of all tensors together."""
    if dtype is not None:
        return dtype
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return functools.reduce(torch.promote_types, (each.dtype for each in others), x.dtype)


def block_of(dim: int) -> int:
    """Elements of a row that a program holds: a power of two, not below dim; four are drawn at a time in a dropout."""
    return max(1 << (dim - 1).bit_length(), 4)


def warps_of(block: int, elements: int) -> int:
    """Warps of a program, about so many elements per thread."""
    return min(max(block // (32 * elements), 1), 16)


def rows_per_program(rows: int, most_programs: int) -> int:
    """Rows that a program of a backward pass goes through. Set by the shape alone, so sums have a fixed order."""
    return -(-rows // most_programs)
