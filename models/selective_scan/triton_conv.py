"""Depthwise convolution and SiLU of both directions of a mixer by our Triton kernels (triton_conv_kernels.py).

Names and shapes: conv_operator.py. As for the scan, triton_scan.obstacle says where they work, and results are the same
to the last digit from run to run.
"""

from torch import Tensor

from models.selective_scan.conv_operator import ConvOperator
from models.selective_scan.triton_scan import on_device_of

TIMES, CHANNELS = 16, 64  # positions and channels per program, forward
# Few positions, as a program takes them one after the other; with the 3 beyond its end they are 4 blocks of steps.
TIMES_BACKWARD, STEPS_BACKWARD, CHANNELS_BACKWARD = 29, 8, 64


class TritonConvPasses:
    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from models.selective_scan.triton_conv_kernels import conv_forward_kernel

        x = _channel_last(x)
        batch, length, dim = x.shape
        u = x.new_empty((2, *x.shape))
        if x.numel() > 0:
            with on_device_of(x):
                conv_forward_kernel[(-(-dim // CHANNELS), -(-length // TIMES), batch)](
                    *(x, weight, bias, u, length, dim, *x.stride()[:2]),
                    K=weight.shape[2],
                    TIMES=TIMES,
                    CHANNELS=CHANNELS,
                    num_warps=1,
                )
        return u

    def backward(self, grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor) -> Tensor:
        from models.selective_scan.triton_conv_kernels import conv_backward_kernel

        x, grad_u, own_grad_x = _channel_last(x), grad_u.contiguous(), _channel_last(grad_x)
        (batch, length, dim), taps = x.shape, weight.shape[2]
        segments = -(-length // TIMES_BACKWARD)
        parts = weight.new_empty((batch * segments, weight.numel() + bias.numel()))
        if x.numel() > 0:
            with on_device_of(x):
                conv_backward_kernel[(-(-dim // CHANNELS_BACKWARD), segments, batch)](
                    *(grad_u, x, weight, bias, own_grad_x, parts, length, dim),
                    *(*x.stride()[:2], *own_grad_x.stride()[:2]),
                    K=taps,
                    TIMES=TIMES_BACKWARD,
                    STEPS=STEPS_BACKWARD,
                    CHANNELS=CHANNELS_BACKWARD,
                    num_warps=1,
                )
        if own_grad_x is not grad_x:
            grad_x.copy_(own_grad_x)
        return parts.sum(0)


def _channel_last(x: Tensor) -> Tensor:
    return x if x.stride(2) == 1 else x.contiguous()


conv_silu_triton = ConvOperator("triton_conv_silu", TritonConvPasses())
