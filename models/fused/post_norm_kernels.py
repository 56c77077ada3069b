"""Triton kernels of dropout, addition and LayerNorm. A program holds whole rows of dim <= BLOCK elements in float32."""

# mypy: ignore-errors
# (in a kernel names are Triton values)

import triton
import triton.language as tl

from models.fused.pre_norm_kernels import load_row, standardised, standardised_gradient


@triton.jit
def dropout_factor(seed, call, row, dim, prob, scale, BLOCK: tl.constexpr):
    """Of each element of a row: 0 = dropped, scale = kept. Same numbers as `philox.uniform`."""
    per_row = tl.cdiv(dim, 4)
    counter = (call.to(tl.int64) << 32) + row * per_row + tl.arange(0, BLOCK // 4)
    first, second, third, fourth = tl.rand4x(tl.load(seed), counter)
    numbers = tl.join(tl.join(first, third), tl.join(second, fourth)).reshape((BLOCK,))
    return tl.where(numbers >= prob, scale, 0.0)


@triton.jit(do_not_specialize=["call"])
def dropout_add_layer_norm_forward_kernel(
    x, residual, weight, bias, x_bias, out, stream, dim, seed, call, eps, prob, scale,
    HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr, HAS_STREAM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    exists = column < dim
    value = load_row(x, row, column, dim)
    if HAS_X_BIAS:
        value += load_row(x_bias, 0, column, dim)
    if HAS_DROPOUT:
        value *= dropout_factor(seed, call, row, dim, prob, scale, BLOCK)
    value += load_row(residual, row, column, dim)
    normed, _ = standardised(value, column, dim, eps, CENTERED=True)
    normed = normed * load_row(weight, 0, column, dim) + load_row(bias, 0, column, dim)
    tl.store(out + row * dim + column, normed, mask=exists)
    if HAS_STREAM:
        tl.store(stream + row * dim + column, normed, mask=exists)


@triton.jit(do_not_specialize=["call"])
def dropout_add_layer_norm_backward_kernel(
    grad_out, grad_stream, x, residual, weight, x_bias, grad_x, grad_residual, parts, rows, rows_per_program, dim,
    seed, call, eps, prob, scale,
    HAS_X_BIAS: tl.constexpr, HAS_DROPOUT: tl.constexpr, HAS_STREAM: tl.constexpr, HAS_GRAD_X: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """rows_per_program rows, one after the other.

    parts (programs, 2 or 3, dim) is each program's own part of the gradients of weight, bias and x_bias.
    """
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    column = tl.arange(0, BLOCK)
    exists = column < dim
    w = load_row(weight, 0, column, dim)
    if HAS_X_BIAS:
        x_offset = load_row(x_bias, 0, column, dim)
        x_bias_sum = tl.zeros((BLOCK,), tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, tl.minimum(first + rows_per_program, rows)):
        value = load_row(x, row, column, dim)
        if HAS_X_BIAS:
            value += x_offset
        if HAS_DROPOUT:
            factor = dropout_factor(seed, call, row, dim, prob, scale, BLOCK)
            value *= factor
        value += load_row(residual, row, column, dim)
        normed, factor_of_norm = standardised(value, column, dim, eps, CENTERED=True)
        grad = load_row(grad_out, row, column, dim)
        if HAS_STREAM:
            grad += load_row(grad_stream, row, column, dim)
        weight_sum += grad * normed
        bias_sum += grad
        total = standardised_gradient(grad * w, normed, factor_of_norm, dim, CENTERED=True)
        tl.store(grad_residual + row * dim + column, total, mask=exists)
        if HAS_DROPOUT:
            total *= factor
        if HAS_GRAD_X:
            tl.store(grad_x + row * dim + column, total, mask=exists)
        if HAS_X_BIAS:
            x_bias_sum += total
    of_program = parts + tl.program_id(0) * (3 if HAS_X_BIAS else 2) * dim + column
    tl.store(of_program, weight_sum, mask=exists)
    tl.store(of_program + dim, bias_sum, mask=exists)
    if HAS_X_BIAS:
        tl.store(of_program + 2 * dim, x_bias_sum, mask=exists)
