"""Dropout, residual addition and LayerNorm in one launch: the end of each sublayer of a post-norm Transformer.

Operators: mamba_tbps::dropout_add_layer_norm, one launch; mamba_tbps::dropout_add_layer_norm_backward, one launch and a
second that adds up the gradients of the weight and of both biases. The backward pass draws the dropped elements once
more, so no mask is stored. Results are the same to the last digit from run to run.

Source: LayerNorm (arXiv:1607.06450), eps inside the root as in nn.LayerNorm; its place as in BERT (arXiv:1810.04805).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.fused.operators import block_of, fused_operator, out_dtype_of, rows_per_program, warps_of
from models.fused.philox import Dropout, uniform

EPS = 1e-12  # BERT's
MOST_PROGRAMS = 1024  # of the backward pass: about eight per multiprocessor of a large GPU
ELEMENTS_FORWARD, ELEMENTS_BACKWARD = 32, 16  # of a row, per thread


class NormAndStream(NamedTuple):
    out: Tensor  # (..., D), out_dtype
    stream: Tensor  # (..., D), stream_dtype: the same for the next residual connection


def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = EPS,
    dropout: Dropout | None = None,
    out_dtype: torch.dtype | None = None,
    stream_dtype: torch.dtype | None = None,
    x_bias: Tensor | None = None,
) -> NormAndStream:
    """LayerNorm(dropout(x + x_bias) + residual), computed in float32. Differentiable in all of these tensors.

    Args:
        x, residual: (..., D), any float dtypes; float64 in either makes all float64 (in tests).
        weight, bias: (D,).
        dropout: None drops nothing.
        out_dtype: None: autocast's if it is on, else what x and residual have together.
        stream_dtype: of a second copy of the output; None, or out_dtype: `stream` is `out` itself. The gradients of
            both copies are added in the launch, where autograd would need one of its own.
        x_bias: (D,), of the linear layer that x comes from. Its gradient, summed up in float32, comes out of the same
            launch as the others; a linear layer needs one of its own.
    Raises: ValueError if the shapes differ or dropout.prob is not in [0, 1).
    """
    if x.shape != residual.shape:
        raise ValueError(f"x {tuple(x.shape)} and residual {tuple(residual.shape)} differ")
    if dropout is not None and not 0 <= dropout.prob < 1:
        raise ValueError(f"dropout.prob must be in [0, 1), got {dropout.prob}")
    out_dtype = out_dtype_of(out_dtype, x, residual)
    if stream_dtype == out_dtype:
        stream_dtype = None
    draws: tuple[float, Tensor | None, int] = (0.0, None, 0)
    if dropout is not None and dropout.prob > 0:
        if dropout.seed is None:
            x, x_bias = F.dropout(x if x_bias is None else x + x_bias, dropout.prob), None
        else:
            draws = dropout
    implementation = _plain_forward if torch.compiler.is_exporting() else _forward
    out, stream = implementation(x, residual, weight, bias, x_bias, out_dtype, stream_dtype, eps, *draws)
    return NormAndStream(out, out if stream_dtype is None else stream)


class Options(NamedTuple):
    """The last arguments of both operators."""

    eps: float
    prob: float
    seed: Tensor | None  # None: no dropout
    call: int

    def factor_of(self, x: Tensor) -> Tensor | None:
        """What dropout multiplies x by, float32; None stands for ones."""
        if self.seed is None:
            return None
        kept = uniform(self.seed, self.call, x.numel() // x.shape[-1], x.shape[-1]) >= self.prob
        return (kept * (1 / (1 - self.prob))).view(x.shape)

    def for_kernel(self, stand_in: Tensor) -> tuple[Any, ...]:
        """seed, call, eps, prob, scale"""
        return stand_in if self.seed is None else self.seed, self.call, self.eps, self.prob, 1 / (1 - self.prob)


OPTIONS = "float eps, float prob, Tensor? seed, int call"


def _plain_forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_bias: Tensor | None,
    out_dtype: torch.dtype,
    stream_dtype: torch.dtype | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """(out, stream); the latter is empty without a stream_dtype."""
    given = Options(*options)
    added = _added(x, x_bias, residual, given.factor_of(x))
    out = F.layer_norm(added, weight.shape, weight, bias, given.eps)
    stream = out.new_empty(0, dtype=torch.float32) if stream_dtype is None else out.to(stream_dtype)
    return out.to(out_dtype), stream


def _added(x: Tensor, x_bias: Tensor | None, residual: Tensor, factor: Tensor | None) -> Tensor:
    """In float32, or in float64 if one of them is."""
    x = x.to(torch.promote_types(torch.promote_types(x.dtype, residual.dtype), torch.float32))
    x = x if x_bias is None else x + x_bias
    return (x if factor is None else x * factor) + residual


def _kernel_forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_bias: Tensor | None,
    out_dtype: torch.dtype,
    stream_dtype: torch.dtype | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    from models.fused.post_norm_kernels import dropout_add_layer_norm_forward_kernel

    given, dim = Options(*options), x.shape[-1]
    outputs = _empty_outputs(x, residual, weight, bias, x_bias, out_dtype, stream_dtype)
    block = block_of(dim)
    dropout_add_layer_norm_forward_kernel[(x.numel() // dim,)](
        *(x, residual, weight, bias, x if x_bias is None else x_bias, *outputs, dim),
        *given.for_kernel(stand_in=x),
        HAS_X_BIAS=x_bias is not None,
        HAS_DROPOUT=given.seed is not None,
        HAS_STREAM=stream_dtype is not None,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_FORWARD),
    )
    return outputs


def _empty_outputs(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_bias: Tensor | None,
    out_dtype: torch.dtype,
    stream_dtype: torch.dtype | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    stream_shape = (0,) if stream_dtype is None else x.shape
    return x.new_empty(x.shape, dtype=out_dtype), x.new_empty(stream_shape, dtype=stream_dtype or torch.float32)


def _examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    x, residual, weight, bias, x_bias, *_ = _example_tensors(device_type)
    for draws in ((0.0, None, 0), _example_dropout(device_type)):
        yield x, residual, weight, bias, x_bias, torch.float32, torch.float16, EPS, *draws


def _example_tensors(device_type: str) -> list[Tensor]:
    """x, residual, weight, bias, x_bias, two gradients; small and reproducible."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 40), (3, 40), (40,), (40,), (40,), (3, 40), (3, 40)
    return [torch.randn(shape, generator=generator).to(device_type) for shape in shapes]


def _example_dropout(device_type: str) -> Dropout:
    return Dropout(0.4, torch.tensor([2**40 + 1], device=device_type), 3)


_forward = fused_operator(
    "dropout_add_layer_norm",
    "(Tensor x, Tensor residual, Tensor weight, Tensor bias, Tensor? x_bias, ScalarType out_dtype,"
    f" ScalarType? stream_dtype, {OPTIONS}) -> (Tensor, Tensor)",
    plain=_plain_forward,
    kernel=_kernel_forward,
    fake=_empty_outputs,
    examples=_examples,
)


def _plain_backward(
    grad_out: Tensor,
    grad_stream: Tensor | None,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    x_bias: Tensor | None,
    own_grad_x: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (empty unless own_grad_x), of residual, and of weight, bias and x_bias (2 or 3, D)."""
    given = Options(*options)
    factor = given.factor_of(x)
    added = _added(x, x_bias, residual, factor)
    grad = grad_out.to(added.dtype) if grad_stream is None else grad_out.to(added.dtype) + grad_stream
    _, *statistics = torch.native_layer_norm(added, weight.shape, weight, None, given.eps)
    stand_in = weight  # of the bias, whose values make no difference
    total, *parameters = torch.ops.aten.native_layer_norm_backward(
        grad, added, weight.shape, *statistics, weight, stand_in, [True, True, True]
    )
    grad_x = total if factor is None else total * factor
    if x_bias is not None:
        parameters.append(grad_x.flatten(0, -2).sum(0))
    grad_residual = total.to(residual.dtype)
    return grad_x.to(x.dtype) if own_grad_x else x.new_empty(0), grad_residual, torch.stack(parameters)


def _kernel_backward(
    grad_out: Tensor,
    grad_stream: Tensor | None,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    x_bias: Tensor | None,
    own_grad_x: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    from models.fused.post_norm_kernels import dropout_add_layer_norm_backward_kernel

    given, dim = Options(*options), x.shape[-1]
    grad_x, grad_residual, parameters = _empty_gradients(grad_out, grad_stream, x, residual, weight, x_bias, own_grad_x)
    rows, block = x.numel() // dim, block_of(dim)
    per_program = rows_per_program(rows, MOST_PROGRAMS)
    programs = -(-rows // per_program)
    parts = parameters.new_empty(programs, *parameters.shape)
    dropout_add_layer_norm_backward_kernel[(programs,)](
        *(grad_out, grad_out if grad_stream is None else grad_stream, x, residual, weight),
        *(x if x_bias is None else x_bias, grad_x, grad_residual, parts, rows, per_program, dim),
        *given.for_kernel(stand_in=x),
        HAS_X_BIAS=x_bias is not None,
        HAS_DROPOUT=given.seed is not None,
        HAS_STREAM=grad_stream is not None,
        HAS_GRAD_X=own_grad_x,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_BACKWARD),
    )
    return grad_x, grad_residual, parts.sum(0)


def _empty_gradients(
    grad_out: Tensor,
    grad_stream: Tensor | None,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    x_bias: Tensor | None,
    own_grad_x: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = 2 if x_bias is None else 3
    parameters = weight.new_empty((rows, *weight.shape), dtype=torch.promote_types(weight.dtype, torch.float32))
    return x.new_empty(x.shape if own_grad_x else (0,)), residual.new_empty(residual.shape), parameters


def _backward_examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    x, residual, weight, _, x_bias, *grads = _example_tensors(device_type)
    yield *grads, x, residual, weight, x_bias, True, EPS, *_example_dropout(device_type)
    yield grads[0], None, x, residual, weight, None, False, EPS, 0.0, None, 0


_backward = fused_operator(
    "dropout_add_layer_norm_backward",
    "(Tensor grad_out, Tensor? grad_stream, Tensor x, Tensor residual, Tensor weight, Tensor? x_bias, bool own_grad_x,"
    f" {OPTIONS}) -> (Tensor, Tensor, Tensor)",
    plain=_plain_backward,
    kernel=_kernel_backward,
    fake=_empty_gradients,
    examples=_backward_examples,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, _, x_bias, _, ctx.stream_dtype, ctx.eps, ctx.prob, seed, ctx.call = inputs
    ctx.save_for_backward(x, residual, weight, x_bias, seed)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_stream: Tensor | None) -> tuple[Tensor | None, ...]:
    x, residual, weight, x_bias, seed = ctx.saved_tensors
    if ctx.stream_dtype is None:
        grad_stream = None  # that of an empty tensor
    if grad_out is None:
        grad_out, grad_stream = grad_stream, None
    if grad_out is None:
        return (None,) * 11
    own_grad_x = seed is not None or x.dtype != residual.dtype  # else that of the residual is x's as well
    grad_x, grad_residual, parameters = _backward(
        grad_out, grad_stream, x, residual, weight, x_bias, own_grad_x, ctx.eps, ctx.prob, seed, ctx.call
    )
    grad_weight, grad_bias, *grad_x_bias = parameters.to(weight.dtype).unbind()
    if x_bias is None:
        grad_x_bias = [None]
    grads = grad_x if own_grad_x else grad_residual, grad_residual, grad_weight, grad_bias, *grad_x_bias
    return *grads, *[None] * 6


_forward.register_autograd(_differentiate, setup_context=_setup_context)
