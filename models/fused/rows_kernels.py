"""Triton kernel that copies rows by index."""

# mypy: ignore-errors
# (in a kernel names are Triton values)

import triton
import triton.language as tl


@triton.jit
def gather_rows_kernel(x, index, out, num_rows, out_rows, width, blocks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """ROWS rows of out (out_rows, width) and COLUMNS of their columns, from x (num_rows, width)."""
    row = tl.program_id(0).to(tl.int64) // blocks * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % blocks * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    source = tl.load(index + row, mask=row < out_rows, other=-1).to(tl.int64)
    exists = ((source >= 0) & (source < num_rows))[:, None] & (column < width)
    value = tl.load(x + source[:, None] * width + column, mask=exists, other=0)
    tl.store(out + row[:, None] * width + column, value, mask=(row < out_rows)[:, None] & (column < width))
