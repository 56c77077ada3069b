"""Sums over the parts that the programs of the backward scan have written, in a fixed order."""

# mypy: ignore-errors
# (names in a kernel are Triton values)

import triton
import triton.language as tl


@triton.jit
def sum_projections_kernel(
    parts, target, batch, length, groups, programs,
    t_direction, t_kind, t_batch, t_group, t_time, t_state, STATES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(direction, batch, programs of all groups, length, kind, states) -> (direction, kind, batch, group, length,
    states), of any strides and dtype. kind: B or C. programs: of a group."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    t, kind, n = place // (2 * STATES), place // STATES % 2, place % STATES
    item, group = tl.program_id(1).to(tl.int64) // groups, tl.program_id(1) % groups
    exists = t < length
    row = parts + ((tl.program_id(2) * batch + item) * groups + group) * programs * length * 2 * STATES + place
    total = tl.zeros((BLOCK,), tl.float32)
    for _program in range(0, programs):
        total += tl.load(row, mask=exists, other=0.0)
        row += length * 2 * STATES
    target += tl.program_id(2) * t_direction + item * t_batch + group * t_group
    tl.store(target + kind * t_kind + t * t_time + n * t_state, total, mask=exists)


@triton.jit
def sum_parameters_kernel(parts, grad_A, grad_D, grad_bias, count, DIM, STATES: tl.constexpr, BLOCK: tl.constexpr):
    """(direction, count, dim * (states + 2)) -> A (direction, dim, states), D and bias (direction, dim)."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d, of_A, row = tl.program_id(1).to(tl.int64), DIM * STATES, DIM * (STATES + 2)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(0, count):
        total += tl.load(parts + (d * count + part) * row + place, mask=place < row, other=0.0)
    tl.store(grad_A + d * of_A + place, total, mask=place < of_A)
    tl.store(grad_D + d * DIM + place - of_A, total, mask=(place >= of_A) & (place < of_A + DIM))
    tl.store(grad_bias + d * DIM + place - of_A - DIM, total, mask=(place >= of_A + DIM) & (place < row))
