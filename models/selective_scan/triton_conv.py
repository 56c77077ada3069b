"""Depthwise convolution and SiLU of both directions of a Mamba mixer by our Triton kernels (triton_conv_kernels.py).

Registered as the custom operators mamba_tbps::triton_conv_silu and mamba_tbps::triton_conv_silu_backward. As for the
scan, triton_scan.obstacle says where they work, and results are the same to the last digit from run to run.
"""

from typing import Any

import torch
from torch import Tensor

from models.selective_scan.triton_scan import channel_last, on_device_of

TIMES, CHANNELS = 16, 64  # positions and channels per program, forward
TIMES_BACKWARD, CHANNELS_BACKWARD = 32, 64  # few positions: a program takes them one after the other


def conv_silu_triton(
    x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor
) -> tuple[Tensor, Tensor]:
    """SiLU of a causal depthwise convolution, and of one that looks ahead (weight_b, bias_b), in one pass over x.

    Args: x (batch, length, dim); weights (dim, 1, K) and biases (dim,) as nn.Conv1d holds them.
    Returns: (batch, length, dim) twice, in x's dtype.
    """
    parameters = (weight.flatten(1), bias, weight_b.flatten(1), bias_b)
    x = x if x.stride(2) == 1 else x.contiguous()
    return _forward(x, *(each.float().contiguous() for each in parameters))


@torch.library.custom_op("mamba_tbps::triton_conv_silu", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor) -> tuple[Tensor, Tensor]:
    from models.selective_scan.triton_conv_kernels import conv_forward_kernel

    batch, length, dim = x.shape
    u = x.new_empty(x.shape), x.new_empty(x.shape)
    if x.numel() > 0:
        with on_device_of(x):
            conv_forward_kernel[(-(-dim // CHANNELS), -(-length // TIMES), batch)](
                *(x, (weight, weight_b), (bias, bias_b), u, length, dim, *x.stride()[:2]),
                K=weight.shape[1],
                TIMES=TIMES,
                CHANNELS=CHANNELS,
            )
    return u


@_forward.register_fake
def _forward_fake(x, weight, bias, weight_b, bias_b):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, *grad_u: Tensor) -> tuple[Tensor, ...]:
    grad_x, grad_weight, grad_bias = _backward_op(*channel_last(grad_u), *ctx.saved_tensors)
    return grad_x, grad_weight[0], grad_bias[0], grad_weight[1], grad_bias[1]


_forward.register_autograd(_backward, setup_context=_setup_context)


@torch.library.custom_op("mamba_tbps::triton_conv_silu_backward", mutates_args=())
def _backward_op(
    grad_u: Tensor, grad_u_b: Tensor, x: Tensor, weight: Tensor, bias: Tensor, weight_b: Tensor, bias_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the weights (2, dim, K) and the biases (2, dim)."""
    from models.selective_scan.triton_conv_kernels import conv_backward_kernel

    (batch, length, dim), width = x.shape, weight.shape[1]
    segments = -(-length // TIMES_BACKWARD)
    grad_x = x.new_empty(x.shape)
    grad_weight = weight.new_empty((2, batch, segments, width, dim))
    grad_bias = weight.new_empty((2, batch, segments, dim))
    if x.numel() > 0:
        with on_device_of(x):
            conv_backward_kernel[(-(-dim // CHANNELS_BACKWARD), segments, batch)](
                *((grad_u, grad_u_b), x, (weight, weight_b), (bias, bias_b), grad_x, grad_weight, grad_bias),
                *(length, dim, *x.stride()[:2], *grad_u.stride()[:2]),
                K=width,
                TIMES=TIMES_BACKWARD,
                CHANNELS=CHANNELS_BACKWARD,
                num_warps=1,
            )
    return grad_x, grad_weight.sum((1, 2)).transpose(1, 2).contiguous(), grad_bias.sum((1, 2))


@_backward_op.register_fake
def _backward_fake(grad_u, grad_u_b, x, weight, bias, weight_b, bias_b):  # type: ignore[no-untyped-def]
    return x.new_empty(x.shape), weight.new_empty((2, *weight.shape)), bias.new_empty((2, *bias.shape))
