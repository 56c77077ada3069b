"""Triton kernels of residual addition and RMSNorm. A program holds whole rows of dim <= BLOCK elements, in float32."""

# mypy: ignore-errors
# (in a kernel names are Triton values)

import triton
import triton.language as tl


@triton.jit
def load_row(pointer, row, column, dim):
    """Row as float32, zeros behind its end."""
    return tl.load(pointer + row * dim + column, mask=column < dim, other=0.0).to(tl.float32)


@triton.jit
def add_rms_norm_forward_kernel(
    residual, branch, row_scale, weight, new_residual, normed, length, dim, eps,
    HAS_BRANCH: tl.constexpr, HAS_SCALE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row. row_scale has an entry per `length` rows. Without a branch there is no new residual to store."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    exists = column < dim
    x = load_row(residual, row, column, dim)
    if HAS_BRANCH:
        added = load_row(branch, row, column, dim)
        if HAS_SCALE:
            added *= tl.load(row_scale + row // length)
        x += added
        tl.store(new_residual + row * dim + column, x, mask=exists)
    w = tl.load(weight + column, mask=exists, other=0.0).to(tl.float32)
    inverse_rms = tl.rsqrt(tl.sum(x * x, 0) / dim + eps)
    tl.store(normed + row * dim + column, x * inverse_rms * w, mask=exists)


@triton.jit
def add_rms_norm_backward_kernel(
    x, row_scale, weight, grad_normed, grad_x, grad_residual, grad_branch, weight_parts, rows, length, dim, eps,
    rows_per_program,
    HAS_GRAD_X: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BRANCH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rows_per_program rows, one after the other. x is the new residual and grad_x its gradient from elsewhere.

    weight_parts (programs, dim) is each program's own part of the weight's gradient.
    """
    first = tl.program_id(0).to(tl.int64) * rows_per_program
    column = tl.arange(0, BLOCK)
    exists = column < dim
    w = tl.load(weight + column, mask=exists, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    for row in range(first, tl.minimum(first + rows_per_program, rows)):
        value = load_row(x, row, column, dim)
        grad = load_row(grad_normed, row, column, dim)
        inverse_rms = tl.rsqrt(tl.sum(value * value, 0) / dim + eps)
        value *= inverse_rms
        weight_sum += grad * value
        grad *= w
        total = inverse_rms * (grad - value * (tl.sum(grad * value, 0) / dim))
        if HAS_GRAD_X:
            total += load_row(grad_x, row, column, dim)
        tl.store(grad_residual + row * dim + column, total, mask=exists)
        if HAS_BRANCH:
            if HAS_SCALE:
                total *= tl.load(row_scale + row // length)
            tl.store(grad_branch + row * dim + column, total, mask=exists)
    tl.store(weight_parts + tl.program_id(0) * dim + column, weight_sum, mask=exists)
