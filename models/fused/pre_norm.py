"""Residual addition and a norm in one launch: the start of each sublayer of a pre-norm network.

Drop path, the bias of the branch's last layer and the cast to the dtype of the product that follows are part of it.
B batch, L length, D width. Operators: mamba_tbps::add_norm, one launch; mamba_tbps::add_norm_backward, one launch and a
second that adds up the gradients of weight and biases. Results are the same to the last digit from run to run.

Sources: RMSNorm (arXiv:1910.07467) and LayerNorm (arXiv:1607.06450), eps inside the root as in torch.nn; drop path
(arXiv:1603.09382).
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
    if row_scale is not None and row_scale.shape != residual.shape[:1]:
        raise ValueError(f"row_scale must be {tuple(residual.shape[:1])}, got {tuple(row_scale.shape)}")
    return _add_norm(residual, branch, row_scale, None, weight, None, eps, out_dtype)


def add_layer_norm(
    residual: Tensor,
    branch: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float = EPS,
    out_dtype: torch.dtype | None = None,
    branch_bias: Tensor | None = None,
) -> ResidualAndNorm:
    """residual + branch + branch_bias, and its LayerNorm. Differentiable in all of these tensors.

    Args:
        weight, bias: (D,).
        branch_bias: (D,), of the linear layer that the branch comes from. Its gradient, summed up in float32, comes out
            of the same launch as the others; a linear layer needs one of its own.
        residual, branch, out_dtype: as of `add_rms_norm`.
    Raises: ValueError as `add_rms_norm`, and for a branch_bias without a branch.
    """
    if branch is None and branch_bias is not None:
        raise ValueError("a branch_bias needs a branch")
    return _add_norm(residual, branch, None, branch_bias, weight, bias, eps, out_dtype)


def _add_norm(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    out_dtype: torch.dtype | None,
) -> ResidualAndNorm:
    if residual.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the residual must be float32 or float64, not {residual.dtype}")
    if branch is not None and branch.shape != residual.shape:
        raise ValueError(f"residual {tuple(residual.shape)} and branch {tuple(branch.shape)} differ")
    implementation = _plain_forward if torch.compiler.is_exporting() else _forward
    new_residual, normed = implementation(
        residual, branch, row_scale, branch_bias, weight, bias, eps, out_dtype_of(out_dtype, residual)
    )
    return ResidualAndNorm(residual if branch is None else new_residual, normed)


def _plain_forward(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """(new residual, normed); the first is empty without a branch. Without a bias the norm is RMSNorm."""
    x = residual
    if branch is not None:
        branch = branch if branch_bias is None else branch.to(x.dtype) + branch_bias
        x = residual + (branch if row_scale is None else row_scale[:, None, None] * branch)
    if bias is None:
        normed = F.rms_norm(x, weight.shape, weight, eps)
    else:
        normed = F.layer_norm(x, weight.shape, weight, bias, eps)
    return residual.new_empty(0) if branch is None else x, normed.to(out_dtype)


def _kernel_forward(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    from models.fused.pre_norm_kernels import add_norm_forward_kernel

    outputs = _empty_outputs(residual, branch, row_scale, branch_bias, weight, bias, eps, out_dtype)
    length, dim = residual.shape[1:]
    block = block_of(dim)
    optional = (residual if each is None else each for each in (branch, row_scale, branch_bias, bias))
    add_norm_forward_kernel[(residual.numel() // dim,)](
        *(residual, *optional, weight, *outputs, length, dim, eps),
        HAS_BRANCH=branch is not None,
        HAS_SCALE=row_scale is not None,
        HAS_BRANCH_BIAS=branch_bias is not None,
        CENTERED=bias is not None,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_FORWARD),
    )
    return outputs


def _empty_outputs(
    residual: Tensor,
    branch: Tensor | None,
    row_scale: Tensor | None,
    branch_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    new_residual = residual.new_empty((0,) if branch is None else residual.shape)
    return new_residual, residual.new_empty(residual.shape, dtype=out_dtype)


def _examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    residual, branch, row_scale, branch_bias, weight, bias, _ = _example_tensors(device_type)
    yield residual, branch, row_scale, None, weight, None, EPS, torch.float32
    yield residual, branch, None, branch_bias, weight, bias, EPS, torch.float32
    yield residual, None, None, None, weight, None, EPS, torch.float32


def _example_tensors(device_type: str) -> list[Tensor]:
    """residual, branch, row_scale, branch_bias, weight, bias, gradient; small and reproducible."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 40), (2, 3, 40), (2,), (40,), (40,), (40,), (2, 3, 40)
    return [torch.randn(shape, generator=generator).to(device_type) for shape in shapes]


_forward = fused_operator(
    "add_norm",
    "(Tensor residual, Tensor? branch, Tensor? row_scale, Tensor? branch_bias, Tensor weight, Tensor? bias, float eps,"
    " ScalarType out_dtype) -> (Tensor, Tensor)",
    plain=_plain_forward,
    kernel=_kernel_forward,
    fake=_empty_outputs,
    examples=_examples,
)


class Norm(NamedTuple):
    """The last arguments of the backward pass."""

    eps: float
    centered: bool  # LayerNorm, else RMSNorm
    branch_dtype: torch.dtype | None  # None: the branch has no gradient of its own
    has_branch_bias: bool

    @property
    def num_parameters(self) -> int:
        return 1 + self.centered + self.has_branch_bias


def _plain_backward(
    grad_normed: Tensor, grad_x: Tensor | None, x: Tensor, row_scale: Tensor | None, weight: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of residual, branch (empty without a branch_dtype), and of weight, bias, branch_bias (1 to 3, D).

    x is the new residual.
    """
    norm, grad = Norm(*options), grad_normed.to(x.dtype)
    total, *parameters = (_layer_norm_gradients if norm.centered else _rms_norm_gradients)(grad, x, weight, norm.eps)
    if grad_x is not None:
        total += grad_x
    scaled = total if row_scale is None else total * row_scale[:, None, None]
    if norm.has_branch_bias:
        parameters.append(scaled.flatten(0, -2).sum(0))
    own = x.new_empty(0) if norm.branch_dtype is None else scaled.to(norm.branch_dtype, copy=True)
    return total, own, torch.stack(parameters)


def _rms_norm_gradients(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Of x and weight."""
    inverse_rms = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    x_hat = x * inverse_rms
    grad_weight = (grad * x_hat).flatten(0, -2).sum(0)
    grad = grad * weight
    return inverse_rms * (grad - x_hat * (grad * x_hat).mean(-1, keepdim=True)), grad_weight


def _layer_norm_gradients(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Of x, weight and bias."""
    _, *statistics = torch.native_layer_norm(x, weight.shape, weight, None, eps)
    stand_in = weight  # of the bias, whose values make no difference
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, weight.shape, *statistics, weight, stand_in, [True, True, True]
    )


def _kernel_backward(
    grad_normed: Tensor, grad_x: Tensor | None, x: Tensor, row_scale: Tensor | None, weight: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    from models.fused.pre_norm_kernels import add_norm_backward_kernel

    norm = Norm(*options)
    grad_residual, grad_branch, parameters = _empty_gradients(grad_normed, grad_x, x, row_scale, weight, *options)
    length, dim = x.shape[1:]
    rows, block = x.numel() // dim, block_of(dim)
    per_program = rows_per_program(rows, MOST_PROGRAMS)
    programs = -(-rows // per_program)
    parts = parameters.new_empty(programs, *parameters.shape)
    add_norm_backward_kernel[(programs,)](
        *(x, x if row_scale is None else row_scale, weight, grad_normed, x if grad_x is None else grad_x),
        *(grad_residual, grad_branch, parts, rows, length, dim, norm.eps, per_program),
        HAS_GRAD_X=grad_x is not None,
        HAS_SCALE=row_scale is not None,
        HAS_BRANCH=norm.branch_dtype is not None,
        HAS_BRANCH_BIAS=norm.has_branch_bias,
        CENTERED=norm.centered,
        BLOCK=block,
        num_warps=warps_of(block, ELEMENTS_BACKWARD),
    )
    return grad_residual, grad_branch, parts.sum(0)


def _empty_gradients(
    grad_normed: Tensor, grad_x: Tensor | None, x: Tensor, row_scale: Tensor | None, weight: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    norm = Norm(*options)
    grad_branch = x.new_empty((0,) if norm.branch_dtype is None else x.shape, dtype=norm.branch_dtype or x.dtype)
    return x.new_empty(x.shape), grad_branch, x.new_empty(norm.num_parameters, *weight.shape)


def _backward_examples(device_type: str) -> Iterator[tuple[Any, ...]]:
    x, grad_normed, row_scale, _, weight, _, grad_x = _example_tensors(device_type)
    yield grad_normed, grad_x, x, row_scale, weight, *Norm(EPS, False, torch.float32, False)
    yield grad_normed, grad_x, x, None, weight, *Norm(EPS, True, torch.float32, True)
    yield grad_normed, None, x, None, weight, *Norm(EPS, False, None, False)


_backward = fused_operator(
    "add_norm_backward",
    "(Tensor grad_normed, Tensor? grad_x, Tensor x, Tensor? row_scale, Tensor weight, float eps, bool centered,"
    " ScalarType? branch_dtype, bool has_branch_bias) -> (Tensor, Tensor, Tensor)",
    plain=_plain_backward,
    kernel=_kernel_backward,
    fake=_empty_gradients,
    examples=_backward_examples,
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    residual, branch, row_scale, branch_bias, weight, bias, eps, _ = inputs
    ctx.save_for_backward(residual if branch is None else output[0], row_scale, weight)
    ctx.norm = Norm(eps, bias is not None, None if branch is None else branch.dtype, branch_bias is not None)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_x: Tensor | None, grad_normed: Tensor | None) -> tuple[Tensor | None, ...]:
    x, row_scale, weight = ctx.saved_tensors
    norm: Norm = ctx.norm
    dtype = norm.branch_dtype
    if dtype is None:
        grad_x = None  # that of an empty tensor
    if grad_normed is None:
        grad_normed = torch.zeros_like(x)
    shared = dtype == x.dtype and row_scale is None  # then branch and residual have the same gradient
    grad_residual, own, parameters = _backward(
        grad_normed, grad_x, x, row_scale, weight, *norm._replace(branch_dtype=None if shared else dtype)
    )
    grad_branch = grad_residual if shared else None if dtype is None else own
    grads = iter(parameters.to(weight.dtype).unbind())
    grad_weight, grad_bias = next(grads), next(grads) if norm.centered else None
    return grad_residual, grad_branch, None, next(grads, None), grad_weight, grad_bias, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)
