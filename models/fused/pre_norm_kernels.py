"""Triton kernels of residual addition and a norm. A program holds whole rows of dim <= BLOCK elements, in float32.

CENTERED: the norm is LayerNorm, with a bias; else it is RMSNorm.
"""

# mypy: ignore-errors
# (in a kernel names are Triton values)

import triton
import triton.language as tl


@triton.jit
def load_row(pointer, row, column, dim):
    """Row as float32, zeros behind its end."""
    return tl.load(pointer + row * dim + column, mask=column < dim, other=0.0).to(tl.float32)


@triton.jit
def standardised(x, column, dim, eps, CENTERED: tl.constexpr):
    """(x with variance 1, and with mean 0 if CENTERED; what it was multiplied by). x is 0 behind the row's end."""
    if CENTERED:
        x = tl.where(column < dim, x - tl.sum(x, 0) / dim, 0.0)
    factor = tl.rsqrt(tl.sum(x * x, 0) / dim + eps)
    return x * factor, factor


@triton.jit
def standardised_gradient(grad, normed, factor, dim, CENTERED: tl.constexpr):
    """The gradient of x in `standardised`, from the gradient of its first result; normed and factor are its results."""
    if CENTERED:
        grad -= tl.sum(grad, 0) / dim
    return factor * (grad - normed * (tl.sum(grad * normed, 0) / dim))


@triton.jit
def add_norm_forward_kernel(
    residual, branch, row_scale, branch_bias, bias, weight, new_residual, normed, length, dim, eps,
    HAS_BRANCH: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BRANCH_BIAS: tl.constexpr, CENTERED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One row. row_scale has an entry per `length` rows. Without a branch there is no new residual to store."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    exists = column < dim
    x = load_row(residual, row, column, dim)
    if HAS_BRANCH:
        added = load_row(branch, row, column, dim)
        if HAS_BRANCH_BIAS:
            added += load_row(branch_bias, 0, column, dim)
        if HAS_SCALE:
            added *= tl.load(row_scale + row // length)
        x += added
        tl.store(new_residual + row * dim + column, x, mask=exists)
    x, _ = standardised(x, column, dim, eps, CENTERED)
    x *= load_row(weight, 0, column, dim)
    if CENTERED:
        x += load_row(bias, 0, column, dim)
    tl.store(normed + row * dim + column, x, mask=exists)


@triton.jit
def add_norm_backward_kernel(
    x, row_scale, weight, grad_normed, grad_x, grad_residual, grad_branch, parts, rows, length, dim, eps,
    rows_per_program,
    HAS_GRAD_X: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BRANCH: tl.constexpr, HAS_BRANCH_BIAS: tl.constexpr,
    CENTERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rows_per_program rows, one after the other. x is the new residual and grad_x its gradient from elsewhere.

    parts (programs, 1 to 3, dim) is each program's own part of the gradients of weight, bias and branch_bias.
    """
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    column = tl.arange(0, BLOCK)
    exists = column < dim
    w = load_row(weight, 0, column, dim)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    if CENTERED:
        bias_sum = tl.zeros((BLOCK,), tl.float32)
    if HAS_BRANCH_BIAS:
        branch_bias_sum = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, tl.minimum(first + rows_per_program, rows)):
        value, factor = standardised(load_row(x, row, column, dim), column, dim, eps, CENTERED)
        grad = load_row(grad_normed, row, column, dim)
        weight_sum += grad * value
        if CENTERED:
            bias_sum += grad
        total = standardised_gradient(grad * w, value, factor, dim, CENTERED)
        if HAS_GRAD_X:
            total += load_row(grad_x, row, column, dim)
        tl.store(grad_residual + row * dim + column, total, mask=exists)
        if HAS_SCALE:
            total *= tl.load(row_scale + row // length)
        if HAS_BRANCH:
            tl.store(grad_branch + row * dim + column, total, mask=exists)
        if HAS_BRANCH_BIAS:
            branch_bias_sum += total
    part = parts + tl.program_id(0) * (1 + CENTERED + HAS_BRANCH_BIAS) * dim + column
    tl.store(part, weight_sum, mask=exists)
    if CENTERED:
        tl.store(part + dim, bias_sum, mask=exists)
    if HAS_BRANCH_BIAS:
        tl.store(part + (1 + CENTERED) * dim, branch_bias_sum, mask=exists)
