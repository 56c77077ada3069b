"""The structs of cpu_kernel.c as Python sees them, and how tensors become fields of them."""

import ctypes
from typing import Any

import torch
from torch import Tensor


class View(ctypes.Structure):
    """struct view: a tensor with its strides."""

    _fields_ = [("data", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("batch", "channel", "time", "is_bf16"))]


class SmallView(ctypes.Structure):
    """struct small_view: a float32 tensor with its strides."""

    _fields_ = [("data", ctypes.c_void_p), *((n, ctypes.c_int64) for n in ("batch", "group", "state", "time"))]


_SIZES = (
    "batch",
    "dim",
    "length",
    "state",
    "groups",
    "parts",
    "blocks",
    "softplus",
    "reverse",
    "keep_states",
    "threads",
)
_VIEWS = ("u", "delta", "z", "out", "grad_out", "grad_u", "grad_delta", "grad_z", "base", "y")


class ScanStruct(ctypes.Structure):
    """struct scan."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, View) for name in _VIEWS),
        *((name, SmallView) for name in ("B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "bias", "states")),
        *((name, SmallView) for name in ("grad_B", "grad_C")),
        ("part_stride", ctypes.c_int64),
        ("grad_parameters", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    ]


class ConvStruct(ctypes.Structure):
    """struct conv."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "dim", "length", "taps", "reverse", "threads", "accumulate")),
        *((name, View) for name in ("x", "out", "grad_out", "grad_x")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "grad_parameters")),
    ]


def sequence_view(x: Tensor) -> View:
    """x: (batch, time, channel)."""
    batch, time, channel = x.stride()
    return View(x.data_ptr(), batch, channel, time, x.dtype == torch.bfloat16)


def projection_view(x: Tensor) -> SmallView:
    """x, B or C or a gradient of theirs: (batch, group, time, state), float32."""
    batch, group, time, state = x.stride()
    return SmallView(x.data_ptr(), batch, group, state, time)


def run(function: Any, described: ctypes.Structure) -> None:
    """Call a function of the library. Raises: MemoryError."""
    if function(ctypes.byref(described)):
        raise MemoryError("no memory for the working space of the CPU kernel")
