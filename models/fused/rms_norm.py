"""Residual addition and RMSNorm in one launch, with drop path and the cast to the dtype of the product that follows.

B batch, L length, D width. Operators: mamba_tbps::add_rms_norm, one launch; mamba_tbps::add_rms_norm_backward, one
launch and a second that adds up the weight's gradient. Results are the same to the last digit from run to run.

Source: RMSNorm (arXiv:1910.07467), eps inside the root as in nn.RMSNorm; drop path (arXiv:1603.09382).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.fused.operators import block_of, fused_operator, out_dtype_of, rows_per_program, warps_of

EPS = 1e-5
MOST_PROGRAMS = 1024  # of the backward pass: about eight per multiprocessor of a large GPU
ELEMENTS_FORWARD, ELEMENTS_BACKWARD = 32, 16  # of a row, per thread


class ResidualAndNorm(NamedTuple):
    residual: Tensor  # (B, L, D), dtype of the residual that came in
    normed: Tensor  # (B, L, D), out_dtype


def add_rms_norm(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float = EPS,
    out_dtype: torch.dtype | None = None,
) -> ResidualAndNorm:
    """residual + row_scale * branch, and its RMSNorm. Differentiable in residual, branch and weight.

    Args:
        residual: (B, L, D), float32 (float64 in tests); the addition and the norm are computed in this dtype.
        branch: (B, L, D), any float dtype; None adds nothing, and the residual comes back as it is.
        row_scale: (B,), dtype of residual: drop path's 0 or 1 / keep for each item; None stands for ones.
        weight: (D,).
        out_dtype: of the normed rows; None: autocast's if it is on, else residual's.
    Raises: ValueError if the residual has less than float32's precision, or if shapes differ.
    """
    if residual.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the residual must be float32 or float64, not {residual.dtype}")
    if branch is not None and branch.shape != residual.shape:
        raise ValueError(f"residual {tuple(residual.shape)} and branch {tuple(branch.shape)} differ")
    if row_scale is not None and row_scale.shape != residual.shape[:1]:
        raise ValueError(f"row_scale must be {tuple(residual.shape[:1])}, got {tuple(row_scale.shape)}")
    implementation = _plain_forward if torch.compiler.is_exporting() else _forward
    new_residual, normed = implementation(residual, branch, row_scale, weight, eps, out_dtype_of(out_dtype, residual))
    return ResidualAndNorm(residual if branch is None else new_residual, normed)


def _plain_forward(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """(new residual, normed); the first is empty without a branch."""
    x = residual
    if branch is not None:
        x = residual + (branch if row_scale is None else row_scale[:, None, None] * branch)
    normed = F.rms_norm(x, weight.shape, weight, eps).to(out_dtype)
    return residual.new_empty(0) if branch is None else x, normed


def _kernel_forward(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    from models.fused.rms_norm_kernels import add_rms_norm_forward_kernel

    outputs = new_residual, normed = _empty_outputs(residual, branch, row_scale, weight, eps, out_dtype)
    length, dim = residual.shape[1:]
    block = block_of(dim)
    add_rms_norm_forward_kernel[(residual.numel() // dim,)](
        *(residual, residual if branch is None else branch, residual if row_scale is None else row_scale, weight),
        *(new_residual, normed, length, dim, eps),
        HAS_BRANCH=branch is not None,
        HAS_SCALE=row_scale is not None,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_FORWARD),
    )
    return outputs


def _empty_outputs(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    new_residual = residual.new_empty((0,) if branch is None else residual.shape)
    return new_residual, residual.new_empty(residual.shape, dtype=out_dtype)


def _examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    residual, branch, row_scale, weight, _ = _example_tensors(device_type)
    yield residual, branch, row_scale, weight, EPS, torch.float32
    yield residual, None, None, weight, EPS, torch.float32


def _example_tensors(device_type: str) -> list[Tensor]:
    """residual, branch, row_scale, weight, gradient; small and reproducible."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 40), (2, 3, 40), (2,), (40,), (2, 3, 40)
    return [torch.randn(shape, generator=generator).to(device_type) for shape in shapes]


_forward = fused_operator(
    "add_rms_norm",
    "(Tensor residual, Tensor? branch, Tensor? row_scale, Tensor weight, float eps, ScalarType out_dtype)"
    " -> (Tensor, Tensor)",
    plain=_plain_forward,
    kernel=_kernel_forward,
    fake=_empty_outputs,
    examples=_examples,
)


def _plain_backward(
    grad_normed: Tensor,
    grad_x: Tensor | None,
    x: Tensor,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of residual, branch (empty without a branch_dtype) and weight; x is the new residual."""
    inverse_rms = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    x_hat, grad = x * inverse_rms, grad_normed.to(x.dtype)
    grad_weight = (grad * x_hat).flatten(0, -2).sum(0)
    grad = grad * weight
    total = inverse_rms * (grad - x_hat * (grad * x_hat).mean(-1, keepdim=True))
    if grad_x is not None:
        total += grad_x
    if branch_dtype is None:
        grad_branch = x.new_empty(0)
    else:
        scaled = total.clone() if row_scale is None else total * row_scale[:, None, None]
        grad_branch = scaled.to(branch_dtype)
    return total, grad_branch, grad_weight


def _kernel_backward(
    grad_normed: Tensor,
    grad_x: Tensor | None,
    x: Tensor,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    from models.fused.rms_norm_kernels import add_rms_norm_backward_kernel

    grad_residual, grad_branch, _ = _empty_gradients(grad_normed, grad_x, x, row_scale, weight, eps, branch_dtype)
    length, dim = x.shape[1:]
    rows, block = x.numel() // dim, block_of(dim)
    per_program = rows_per_program(rows, MOST_PROGRAMS)
    programs = -(-rows // per_program)
    weight_parts = x.new_empty(programs, dim)
    add_rms_norm_backward_kernel[(programs,)](
        *(x, x if row_scale is None else row_scale, weight, grad_normed, x if grad_x is None else grad_x),
        *(grad_residual, grad_branch, weight_parts, rows, length, dim, eps, per_program),
        HAS_GRAD_X=grad_x is not None,
        HAS_SCALE=row_scale is not None,
        HAS_BRANCH=branch_dtype is not None,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_BACKWARD),
    )
    return grad_residual, grad_branch, weight_parts.sum(0)


def _empty_gradients(
    grad_normed: Tensor,
    grad_x: Tensor | None,
    x: Tensor,
    row_scale: Tensor | None,
    weight: Tensor,
    eps: float,
    branch_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_branch = x.new_empty((0,) if branch_dtype is None else x.shape, dtype=branch_dtype or x.dtype)
    return x.new_empty(x.shape), grad_branch, x.new_empty(weight.shape)


def _backward_examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    x, grad_normed, row_scale, weight, grad_x = _example_tensors(device_type)
    yield grad_normed, grad_x, x, row_scale, weight, EPS, torch.float32
    yield grad_normed, None, x, None, weight, EPS, None


_backward = fused_operator(
    "add_rms_norm_backward",
    "(Tensor grad_normed, Tensor? grad_x, Tensor x, Tensor? row_scale, Tensor weight, float eps,"
    " ScalarType? branch_dtype) -> (Tensor, Tensor, Tensor)",
    plain=_plain_backward,
    kernel=_kernel_backward,
    fake=_empty_gradients,
    examples=_backward_examples,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    residual, branch, row_scale, weight, ctx.eps, _ = inputs
    ctx.save_for_backward(residual if branch is None else output[0], row_scale, weight)
    ctx.branch_dtype = None if branch is None else branch.dtype
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_x: Tensor | None, grad_normed: Tensor | None) -> tuple[Tensor | None, ...]:
    x, row_scale, weight = ctx.saved_tensors
    dtype = ctx.branch_dtype
    if dtype is None:
        grad_x = None  # that of an empty tensor
    if grad_normed is None:
        grad_normed = torch.zeros_like(x)
    shared = dtype == x.dtype and row_scale is None  # then branch and residual have the same gradient
    grad_residual, grad_branch, grad_weight = _backward(
        grad_normed, grad_x, x, row_scale, weight, ctx.eps, None if shared else dtype
    )
    if shared or dtype is None:
        grad_branch = grad_residual if shared else None
    return grad_residual, grad_branch, None, grad_weight.to(weight.dtype), None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
