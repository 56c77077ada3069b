"""Depthwise convolution and SiLU of both directions of a mixer by the compiled kernel (cpu_conv.h).

Names and shapes: conv_operator.py.
"""

import torch
from torch import Tensor

from models.selective_scan.compiler import KernelUnavailable, load_kernels
from models.selective_scan.conv_operator import ConvOperator
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


class CpuConvPasses:
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        u = x.new_empty((2, *x.shape))
        for out, conv in zip(u, _describe(x, weight, bias), strict=True):
            conv.out = sequence_view(out)
            run(load_kernels()[0].conv_forward, conv)
        return u

    def backward(self, grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor) -> Tensor:
        # of weight and bias, (2, B, E, K + 1): [:, 0] is the sum over the batch, the rest is working memory
        grad_parameters = weight.new_empty((2, x.shape[0], weight.shape[1], weight.shape[2] + 1))
        for d, conv in enumerate(_describe(x, weight, bias)):
            conv.grad_out, conv.grad_x = sequence_view(grad_u[d]), sequence_view(grad_x)
            conv.accumulate, conv.grad_parameters = d > 0, grad_parameters[d].data_ptr()
            run(load_kernels()[0].conv_backward, conv)
        sums = grad_parameters[:, 0]
        return torch.cat([sums[..., :-1].flatten(), sums[..., -1].flatten()])


conv_silu_cpu = ConvOperator("conv_silu", CpuConvPasses(), device_types="cpu")


def _describe(x: Tensor, weight: Tensor, bias: Tensor) -> list[ConvStruct]:
    """struct conv of each direction, with the fields that both passes need."""
    (batch, length, dim), convs = x.shape, []
    for reverse in range(2):
        conv = ConvStruct(batch, dim, length, weight.shape[2], reverse, torch.get_num_threads())
        conv.x, conv.weight, conv.bias = sequence_view(x), weight[reverse].data_ptr(), bias[reverse].data_ptr()
        convs.append(conv)
    return convs
