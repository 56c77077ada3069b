"""Causal depthwise convolution and SiLU by the compiled kernel (cpu_conv.h): one pass over memory instead of eight.

Registered as mamba_tbps::causal_conv_silu and mamba_tbps::causal_conv_silu_backward, so torch.compile and torch.export
see two opaque nodes with gradients. E channels, L sequence, K taps.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from models.selective_scan.build import KernelUnavailable, load_kernels
from models.selective_scan.cpu import View, view_of

MAX_TAPS = 8
_VIEWS = ("x", "out", "grad_out", "grad_x")


class _Conv(ctypes.Structure):
    """struct conv of cpu_conv.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "dim", "length", "taps", "reverse", "threads")),
        *((name, View) for name in _VIEWS),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "grad_parameters")),
    ]


def can_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes these tensors; builds it on first use. Not in an export, whose graph runs elsewhere."""
    if torch.compiler.is_exporting():
        return False
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or weight.dtype != torch.float32:
        return False
    if weight.shape[-1] > MAX_TAPS or x.numel() == 0:
        return False
    try:
        return bool(load_kernels())
    except KernelUnavailable:
        return False


@torch.library.custom_op("mamba_tbps::causal_conv_silu", mutates_args=(), device_types="cpu")
def causal_conv_silu_cpu(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    """silu(conv(x)): x (B, L, E), any strides; weight (E, 1, K), bias (E,), float32 -> (B, L, E), contiguous."""
    out = _like(x)
    conv = _describe(x, weight.contiguous(), bias.contiguous(), reverse)
    conv.out = view_of(out.transpose(1, 2))
    _run(load_kernels()[0].conv_forward, conv)
    return out


@causal_conv_silu_cpu.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
    return _like(x)


@torch.library.custom_op("mamba_tbps::causal_conv_silu_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_parameters = _like(x), _parameter_gradients(x, weight)
    conv = _describe(x, weight.contiguous(), bias.contiguous(), reverse)
    conv.grad_out, conv.grad_x = view_of(grad_out.transpose(1, 2)), view_of(grad_x.transpose(1, 2))
    conv.grad_parameters = grad_parameters.data_ptr()
    _run(load_kernels()[0].conv_backward, conv)
    return grad_x, grad_parameters[0, :, None, :-1].clone(), grad_parameters[0, :, -1].clone()


@_backward_op.register_fake
def _backward_fake(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x), torch.empty_like(weight), torch.empty_like(bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return (*_backward_op(grad_out, *ctx.saved_tensors, ctx.reverse), None)


causal_conv_silu_cpu.register_autograd(_backward, setup_context=_setup_context)


def _like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _parameter_gradients(x: Tensor, weight: Tensor) -> Tensor:
    """Gradients of weight and bias (batch, E, K + 1); [0] is the sum and the rest working memory."""
    return x.new_empty((x.shape[0], weight.shape[0], weight.shape[-1] + 1), dtype=torch.float32)


def _describe(x: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> _Conv:
    batch, length, dim = x.shape
    conv = _Conv(batch, dim, length, weight.shape[-1], reverse, torch.get_num_threads())
    conv.x, conv.weight, conv.bias = view_of(x.transpose(1, 2)), weight.data_ptr(), bias.data_ptr()
    return conv


def _run(function: Any, conv: _Conv) -> None:
    if function(ctypes.byref(conv)):
        raise MemoryError("causal_conv_silu: no memory for the CPU kernel's working space")
