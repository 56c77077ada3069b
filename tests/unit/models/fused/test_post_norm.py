"""Dropout, addition and LayerNorm: the operator against nn.LayerNorm and autograd, on any device and dtype."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from models.fused import Dropout, dropout_add_layer_norm
from models.fused.philox import uniform
from tests.unit.models.fused.checks import assert_near, gradients, operators_of

TESTS_OF_OPERATORS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


def make(rows=5, dim=8, dtype=torch.float32, residual_dtype=None):
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, dim, generator=generator, dtype=torch.float64).to(
        dtype if dtype == torch.float64 else torch.float32
    )
    tensors = x.to(dtype), residual.to(residual_dtype or dtype), weight, bias
    return [each.requires_grad_() for each in tensors]


def draws(prob=0.4):
    return Dropout(prob, torch.tensor([11]), 2)


def bias_of(args):
    """A bias of x, of the dtype of the layer's own."""
    return torch.linspace(-1, 2, args[2].numel(), dtype=args[2].dtype).requires_grad_()


def composed(x, residual, weight, bias, x_bias=None, dropout=None, eps=1e-12):
    """The same by PyTorch's own operators, differentiated by autograd."""
    if x_bias is not None:
        x = x + x_bias
    if dropout is not None:
        x = x * (uniform(dropout.seed, dropout.call, *x.shape) >= dropout.prob) / (1 - dropout.prob)
    return F.layer_norm(x + residual, weight.shape, weight, bias, eps)


def test_without_dropout_equals_the_layer():
    args = make()
    norm = nn.LayerNorm(8, eps=1e-12)
    want = torch.func.functional_call(norm, {"weight": args[2], "bias": args[3]}, args[0] + args[1])
    got = dropout_add_layer_norm(*args)
    assert got.stream is got.out
    assert torch.equal(got.out, want)
    assert_near(gradients([got.out], args), gradients([want], args), 1e-6)


def test_with_dropout_equals_the_composition():
    args = make()
    got, want = dropout_add_layer_norm(*args, dropout=draws()).out, composed(*args, dropout=draws())
    assert_near([got, *gradients([got], args)], [want, *gradients([want], args)], 1e-5)


@pytest.mark.parametrize("dropout", [None, draws()])
def test_with_the_bias_of_a_linear_layer(dropout):
    args = make()
    args.append(bias_of(args))
    got = dropout_add_layer_norm(*args[:4], dropout=dropout, x_bias=args[4]).out
    want = composed(*args, dropout=dropout)
    assert_near([got, *gradients([got], args)], [want, *gradients([want], args)], 1e-5)


@pytest.mark.parametrize("dropout", [None, draws()])
def test_gradients_by_differences(dropout):
    args = make(rows=2, dim=5, dtype=torch.float64)

    def run(*args):
        return dropout_add_layer_norm(*args[:4], eps=1e-3, dropout=dropout, x_bias=args[4] if args[4:] else None).out

    torch.autograd.gradcheck(run, args)
    torch.autograd.gradcheck(run, [*args, bias_of(args)])


def test_a_probability_of_zero_drops_nothing():
    args = make()
    assert torch.equal(dropout_add_layer_norm(*args, dropout=draws(0.0)).out, dropout_add_layer_norm(*args).out)


def test_without_a_seed_pytorch_draws():
    args = make()
    torch.manual_seed(0)
    got = dropout_add_layer_norm(*args, dropout=Dropout(0.4, None, 0)).out
    torch.manual_seed(0)
    assert torch.equal(got, composed(F.dropout(args[0], 0.4), *args[1:]))
    torch.manual_seed(0)
    got = dropout_add_layer_norm(*args, dropout=Dropout(0.4, None, 0), x_bias=bias_of(args)).out
    torch.manual_seed(0)
    assert torch.equal(got, composed(F.dropout(args[0] + bias_of(args), 0.4), *args[1:]))


def test_dtypes_under_autocast():
    args = make(dtype=torch.bfloat16, residual_dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = dropout_add_layer_norm(*args, stream_dtype=torch.float32)
    assert (got.out.dtype, got.stream.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(got.stream.bfloat16(), got.out)
    grads = gradients(got, args)
    assert [each.dtype for each in grads] == [torch.bfloat16, *[torch.float32] * 3]
    assert torch.equal(grads[0], grads[1].bfloat16())


def test_the_gradient_of_the_bias_is_summed_before_it_is_rounded():
    args = make(dtype=torch.bfloat16, residual_dtype=torch.float32)
    out = dropout_add_layer_norm(*args, x_bias=(x_bias := bias_of(args))).out
    grad_residual, grad_bias = gradients([out], [args[1], x_bias])
    assert grad_bias.dtype == torch.float32
    assert_near([grad_bias], [grad_residual.sum(0)], 1e-6)


@pytest.mark.parametrize("dropout", [None, draws()])
def test_gradients_of_both_copies_are_added(dropout):
    args = make()

    def both():
        return dropout_add_layer_norm(*args, dropout=dropout, out_dtype=torch.bfloat16, stream_dtype=torch.float32)

    def one():
        return dropout_add_layer_norm(*args, dropout=dropout).out

    same = one()
    assert_near(gradients(both(), args), gradients([same, same], args), 2**-7)
    assert_near(gradients([both().stream], args), gradients([one()], args), 1e-6)


@pytest.mark.parametrize("dropout", [None, draws()])
def test_one_operator_forward_and_one_backward(dropout):
    args = make(dtype=torch.bfloat16, residual_dtype=torch.float32)
    options = {"dropout": dropout, "out_dtype": torch.bfloat16, "stream_dtype": torch.float32, "x_bias": bias_of(args)}
    forward, backward = operators_of(
        lambda: dropout_add_layer_norm(*args, **options),
        [*args, options["x_bias"]],
    )
    assert (forward, backward) == (["dropout_add_layer_norm"], ["dropout_add_layer_norm_backward"])


def test_no_rows_and_strides():
    args = make(rows=0)
    got = dropout_add_layer_norm(*args, dropout=draws())
    assert got.out.shape == (0, 8)
    assert not any(each.any() for each in gradients([got.out], args))

    args = make()
    moved = [x.detach().t().contiguous().t().requires_grad_() for x in args[:2]]
    got, want = (dropout_add_layer_norm(*each, *args[2:]).out for each in (moved, args[:2]))
    assert got.is_contiguous()
    assert_near([got, *gradients([got], moved)], [want, *gradients([want], args[:2])], 0)


def test_any_number_of_axes():
    args = make(rows=6)
    want = dropout_add_layer_norm(*args, dropout=draws()).out
    got = dropout_add_layer_norm(*(x.view(2, 3, 8) for x in args[:2]), *args[2:], dropout=draws()).out
    assert torch.equal(got.flatten(0, 1), want)


@pytest.mark.parametrize("stream_dtype", [None, torch.bfloat16])
def test_fake_tensors(stream_dtype):
    with FakeTensorMode() as mode:
        args = [mode.from_tensor(x) for x in make()]
        fake = dropout_add_layer_norm(*args, stream_dtype=stream_dtype)
        assert [(x.shape, x.dtype) for x in fake] == [((5, 8), torch.float32), ((5, 8), stream_dtype or torch.float32)]
    operator = torch.ops.mamba_tbps.dropout_add_layer_norm.default
    options = torch.float32, stream_dtype, 1e-12, *draws()
    for x_bias in (None, bias_of(make())):
        torch.library.opcheck(operator, (*make(), x_bias, *options), test_utils=TESTS_OF_OPERATORS)


def test_bad_arguments():
    x, residual, weight, bias = make()
    with pytest.raises(ValueError, match="differ"):
        dropout_add_layer_norm(x, residual[:2], weight, bias)
    with pytest.raises(ValueError, match=r"dropout\.prob"):
        dropout_add_layer_norm(x, residual, weight, bias, dropout=draws(1.0))
