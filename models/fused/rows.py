"""Copy rows by index in one launch, forward and backward: from packed texts to padded ones, back, and to parts of them.

Operator: mamba_tbps::gather_rows; its gradient is the same operator with the two indices swapped. PyTorch's own way is
two launches each (zeros and index_copy, zeros and index_add), the latter with sums whose order is open.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from models.fused.operators import fused_operator

ROWS, COLUMNS = 8, 256  # of a program


def gather_rows(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    """Row i of the result is x[index[i]], or zeros where there is no such row. Differentiable in x, to any order.

    Args:
        x: (N, ...), any dtype.
        index: (M,) int64; an entry below 0 or from N on stands for no row. No row of x may stand in it twice.
        inverse: (N,) int64, where in the result each row of x has gone: inverse[index[i]] = i; an entry below 0 or from
            M on for a row that has gone nowhere. Only the gradient reads it.
    Returns: (M, ...), contiguous.
    Raises: ValueError if the shapes do not fit.
    """
    if inverse.shape != x.shape[:1] or index.ndim != 1:
        raise ValueError(f"x {tuple(x.shape)} needs index (M,) and inverse (N,), got {index.shape}, {inverse.shape}")
    rows = x.flatten(1) if x.ndim > 1 else x[:, None]
    out = (_plain if torch.compiler.is_exporting() else _gather)(rows, index, inverse)
    return out.view(index.shape[0], *x.shape[1:])  # -1 would be ambiguous without rows


def _plain(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return x.new_zeros(index.shape[0], x.shape[1])
    missing = (index < 0) | (index >= x.shape[0])
    return x.index_select(0, index.clamp(0, x.shape[0] - 1)).masked_fill_(missing[:, None], 0)


def _kernel(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    from models.fused.rows_kernels import gather_rows_kernel

    out = _empty(x, index, inverse)
    blocks = -(-x.shape[1] // COLUMNS)
    gather_rows_kernel[(-(-len(out) // ROWS) * blocks,)](
        *(x, index, out, *x.shape[:1], *out.shape, blocks), ROWS=ROWS, COLUMNS=COLUMNS
    )
    return out


def _empty(x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
    return x.new_empty(index.shape[0], x.shape[1])


def _examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    index, inverse = torch.tensor([2, -1, 0, 1, 7]), torch.tensor([2, 3, 0])
    x = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    yield x.to(device_type), index.to(device_type), inverse.to(device_type)


_gather = fused_operator(
    "gather_rows",
    "(Tensor x, Tensor index, Tensor inverse) -> Tensor",
    plain=_plain,
    kernel=_kernel,
    fake=_empty,
    examples=_examples,
)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    index, inverse = ctx.saved_tensors
    return _gather(grad, inverse, index), None, None


_gather.register_autograd(_differentiate, setup_context=_setup_context)
