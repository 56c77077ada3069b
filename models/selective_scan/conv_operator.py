"""Depthwise convolution and SiLU of both directions of a mixer as a differentiable custom operator.

Direction 0 looks at a position and the K - 1 before it, direction 1 at the K - 1 behind it, each with the last weight
at the position itself. E channels, L sequence, K taps; x (B, L, E) may have any strides.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class ConvPasses(Protocol):
    """What a backend implements. Weight (2, E, K) and bias (2, E) are float32 and dense."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(2, B, L, E) in x's dtype, dense."""

    def backward(self, grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor) -> Tensor:
        """Write x's gradient to grad_x, of any strides. Return weight's, flat, and bias' behind it: (2 E (K + 1),)."""


class ConvOperator:
    """The passes of a backend as mamba_tbps::NAME and mamba_tbps::NAME_backward. Called, they are differentiable.

    Args: device_types: the device on which the kernels run; None for any.
    """

    def __init__(self, name: str, passes: ConvPasses, device_types: str | None = None) -> None:
        schema = "(Tensor x, Tensor weight, Tensor bias) -> Tensor"
        self._forward = torch.library.custom_op(
            f"mamba_tbps::{name}", passes.forward, mutates_args=(), schema=schema, device_types=device_types
        )
        self._backward = torch.library.custom_op(
            f"mamba_tbps::{name}_backward",
            passes.backward,
            mutates_args=("grad_x",),
            schema="(Tensor grad_u, Tensor x, Tensor weight, Tensor bias, Tensor(a!) grad_x) -> Tensor",
            device_types=device_types,
        )
        self._forward.register_fake(_fake_forward)
        self._backward.register_fake(_fake_backward)
        self._forward.register_autograd(self._differentiate, setup_context=_keep_for_backward)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, L, E), (2, E, K), (2, E) -> (2, B, L, E) in x's dtype."""
        return self._forward(x, weight.float().contiguous(), bias.float().contiguous())

    def backward(
        self, grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write x's gradient to grad_x and return those of weight and bias."""
        flat = self._backward(grad_u, x, weight, bias, grad_x)
        return flat[: weight.numel()].view(weight.shape), flat[weight.numel() :].view(bias.shape)

    def _differentiate(self, ctx: Any, grad_u: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias = ctx.saved_tensors
        grad_x = x.new_empty(x.shape)
        return grad_x, *self.backward(grad_u, x, weight, bias, grad_x)


def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((2, *x.shape))


def _fake_backward(grad_u: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor) -> Tensor:
    return weight.new_empty(weight.numel() + bias.numel())


def _keep_for_backward(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
