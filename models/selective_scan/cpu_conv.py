"""Depthwise convolution and SiLU of both directions of a mixer by the compiled kernel (cpu_conv.h).

Registered as mamba_tbps::conv_silu and mamba_tbps::conv_silu_backward, so torch.compile and torch.export see two opaque
nodes with gradients. E channels, L sequence, K taps.
"""

from typing import Any

import torch
from torch import Tensor

from models.selective_scan.compiler import KernelUnavailable, load_kernels
from models.selective_scan.cpu_structs import ConvStruct, run, sequence_view

MAX_TAPS = 8


def can_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes these tensors. Builds it on first use. False in an export: its graph runs elsewhere."""
    if torch.compiler.is_exporting():
        return False
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16) or weight.dtype != torch.float32:
        return False
    return weight.shape[-1] <= MAX_TAPS and x.numel() > 0 and _has_kernel()


@torch.compiler.assume_constant_result
def _has_kernel() -> bool:
    try:
        return bool(load_kernels())
    except KernelUnavailable:
        return False


def conv_silu_cpu(x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU of a causal depthwise convolution, and of one that looks ahead (weight_b, bias_b).

    Args: x (B, L, E), any strides; weights (E, 1, K) and biases (E,) as nn.Conv1d holds them, float32.
    Returns: (B, L, E) twice, in x's dtype.
    """
    return _forward(x, *(each.contiguous() for each in (weight, bias, weight_b, bias_b)))


@torch.library.custom_op("mamba_tbps::conv_silu", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor) -> tuple[Tensor, Tensor]:
    outputs = x.new_empty(x.shape), x.new_empty(x.shape)
    for out, conv in zip(outputs, _describe(x, weight, bias, weight_b, bias_b), strict=True):
        conv.out = sequence_view(out)
        run(load_kernels()[0].conv_forward, conv)
    return outputs


@_forward.register_fake
def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, *grad_out: Tensor) -> tuple[Tensor, ...]:
    grad_x, grad_parameters = _backward_op(*grad_out, *ctx.saved_tensors)
    (weight, bias), (weight_b, bias_b) = ((each[:, None, :-1], each[:, -1]) for each in grad_parameters[:, 0])
    return grad_x, weight, bias, weight_b, bias_b


_forward.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("mamba_tbps::conv_silu_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad_out: Tensor, grad_out_b: Tensor, x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x, and of weight and bias (2, B, E, K + 1): in the latter [:, 0] is the sum over the batch and the
    rest is working memory."""
    grad_x, grad_parameters = grads = _gradients(x, weight)
    for d, conv in enumerate(_describe(x, weight, bias, weight_b, bias_b)):
        own_grad = grad_out if d == 0 else grad_out_b
        conv.grad_out, conv.grad_x = sequence_view(own_grad), sequence_view(grad_x)
        conv.accumulate, conv.grad_parameters = d > 0, grad_parameters[d].data_ptr()
        run(load_kernels()[0].conv_backward, conv)
    return grads


@_backward_op.register_fake
def _backward_fake(
    grad_out: Tensor, grad_out_b: Tensor, x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor
) -> tuple[Tensor, Tensor]:
    return _gradients(x, weight)


def _gradients(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    parameters = (2, x.shape[0], weight.shape[0], weight.shape[-1] + 1)
    return x.new_empty(x.shape), x.new_empty(parameters, dtype=torch.float32)


def _describe(x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor) -> list[ConvStruct]:
    """struct conv of each direction, with the fields that both passes need."""
    (batch, length, dim), convs = x.shape, []
    for reverse, (own_weight, own_bias) in enumerate(((weight, bias), (weight_b, bias_b))):
        conv = ConvStruct(batch, dim, length, own_weight.shape[-1], reverse, torch.get_num_threads())
        conv.x, conv.weight, conv.bias = sequence_view(x), own_weight.data_ptr(), own_bias.data_ptr()
        convs.append(conv)
    return convs
