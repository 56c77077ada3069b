"""The kernels of the fused operators against the plain implementations: on a GPU, else in Triton's interpreter.

float32: 1e-5, relative to the element and to the largest. bfloat16: what is stored in it is rounded, 2^-7.
"""

import pytest
import torch

from models.fused import Dropout, add_layer_norm, add_rms_norm, dropout_add_layer_norm, gather_rows, operators
from models.fused.philox import uniform
from tests.helpers.interpreted_kernels import DEVICE, on_kernels, run_interpreted, starts_the_interpreter
from tests.unit.models.fused.checks import assert_near, gradients

FLOAT32, BFLOAT16 = 1e-5, 2**-7


@starts_the_interpreter
def test_kernels_in_tritons_interpreter():
    run_interpreted(__file__)


def by_both(monkeypatch, function, inputs):
    """Results and gradients by the kernels and by the plain implementations."""
    results = []
    for kernels in (True, False):
        monkeypatch.setattr(operators, "use_kernels", lambda name, device_type, kernels=kernels: kernels)
        outputs = function()
        results.append([*outputs, *gradients(outputs, inputs)])
    return results


def normal(*shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)
    return x.requires_grad_()


@on_kernels
@pytest.mark.parametrize("name", sorted(operators.OPERATORS))
def test_self_test(name):
    assert operators.trouble(operators.OPERATORS[name], DEVICE) is None


@on_kernels
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 1, 1), (3, 2, 70), (2, 1, 1030)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
@pytest.mark.parametrize("scaled", [False, True])
def test_add_rms_norm(monkeypatch, shape, dtype, tolerance, scaled):
    residual, branch, weight = normal(*shape), normal(*shape, dtype=dtype, seed=1), normal(shape[2], seed=2)
    row_scale = torch.arange(shape[0], device=DEVICE) * 1.25 if scaled else None
    got, want = by_both(
        monkeypatch,
        lambda: add_rms_norm(residual, branch, row_scale, weight, out_dtype=dtype),
        [residual, branch, weight],
    )
    assert [x.dtype for x in got] == [x.dtype for x in want]
    assert_near(got, want, tolerance)
    assert_near(got[:1], want[:1], 1e-6)  # the residual stays in float32


@on_kernels
def test_add_rms_norm_without_a_branch(monkeypatch):
    residual, weight = normal(2, 3, 8), normal(8, seed=2)
    got, want = by_both(monkeypatch, lambda: [add_rms_norm(residual, None, None, weight).normed], [residual, weight])
    assert_near(got, want, FLOAT32)


@on_kernels
def test_add_rms_norm_with_several_rows_per_program(monkeypatch):
    monkeypatch.setattr("models.fused.pre_norm.MOST_PROGRAMS", 2)
    residual, weight = normal(1, 7, 8), normal(8, seed=2)
    got, want = by_both(monkeypatch, lambda: [add_rms_norm(residual, None, None, weight).normed], [residual, weight])
    assert_near(got, want, FLOAT32)


@on_kernels
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 3, 21), (3, 2, 70), (2, 1, 1030)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
@pytest.mark.parametrize("biased", [False, True])
def test_add_layer_norm(monkeypatch, shape, dtype, tolerance, biased):
    residual, branch = normal(*shape), normal(*shape, dtype=dtype, seed=1)
    weight, bias, branch_bias = (normal(shape[2], seed=seed) for seed in (2, 3, 4))
    options = {"out_dtype": dtype, "branch_bias": branch_bias if biased else None}
    got, want = by_both(
        monkeypatch,
        lambda: add_layer_norm(residual, branch, weight, bias, **options),
        [residual, branch, weight, bias, *([branch_bias] if biased else [])],
    )
    assert [x.dtype for x in got] == [x.dtype for x in want]
    assert_near(got, want, tolerance)
    assert_near(got[:1], want[:1], 1e-6)  # the residual stays in float32


@on_kernels
def test_add_layer_norm_with_several_rows_per_program(monkeypatch):
    monkeypatch.setattr("models.fused.pre_norm.MOST_PROGRAMS", 2)
    inputs = [normal(1, 7, 8), normal(1, 7, 8, seed=1), *(normal(8, seed=seed) for seed in (2, 3, 4))]
    got, want = by_both(monkeypatch, lambda: add_layer_norm(*inputs[:4], branch_bias=inputs[4]), inputs)
    assert_near(got, want, FLOAT32)
    inputs = [inputs[0], *inputs[2:4]]
    got, want = by_both(monkeypatch, lambda: [add_layer_norm(inputs[0], None, *inputs[1:]).normed], inputs)
    assert_near(got, want, FLOAT32)


@on_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 300])
def test_gather_rows(monkeypatch, dtype, width):
    place = torch.randperm(30, generator=torch.Generator().manual_seed(0))[:13].to(DEVICE)
    rank = torch.full((30,), -1, device=DEVICE).index_copy(0, place, torch.arange(13, device=DEVICE))
    place = torch.cat([place, torch.full((4,), 30, device=DEVICE)])
    x = normal(17, width, dtype=dtype)
    got, want = by_both(monkeypatch, lambda: [gather_rows(x, rank, place)], [x])
    assert_near(got, want, 0)
    padded = normal(30, width, dtype=dtype)
    got, want = by_both(monkeypatch, lambda: [gather_rows(padded, place, rank)], [padded])
    assert_near(got, want, 0)


@on_kernels
def test_gather_rows_of_integers(monkeypatch):
    index = torch.tensor([2, -1, 0, 5], device=DEVICE)
    monkeypatch.setattr(operators, "use_kernels", lambda *_: True)
    got = gather_rows(torch.arange(1, 4, device=DEVICE), index, torch.tensor([2, -1, 0], device=DEVICE))
    assert got.tolist() == [3, 0, 1, 0]


@on_kernels
@pytest.mark.parametrize("shape", [(3, 8), (1, 21), (4, 70), (2, 1030)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16)])
@pytest.mark.parametrize(("prob", "call"), [(0.0, 0), (0.4, 0), (0.4, 1), (0.4, 2**31 - 1)])
@pytest.mark.parametrize("biased", [False, True])
def test_dropout_add_layer_norm(monkeypatch, shape, dtype, tolerance, prob, call, biased):
    dim = shape[1]
    inputs = [normal(*shape, dtype=dtype), normal(*shape, seed=1), normal(dim, seed=2), normal(dim, seed=3)]
    options = {"eps": 1e-5, "out_dtype": dtype, "stream_dtype": torch.float32}
    options["dropout"] = Dropout(prob, torch.tensor([2**40 + 5], device=DEVICE), call)
    x_bias = normal(dim, seed=4) if biased else None
    got, want = by_both(
        monkeypatch,
        lambda: dropout_add_layer_norm(*inputs, **options, x_bias=x_bias),
        [*inputs, x_bias] if biased else inputs,
    )
    assert [x.dtype for x in got] == [x.dtype for x in want]
    assert_near(got, want, tolerance)


@on_kernels
def test_dropout_add_layer_norm_with_several_rows_per_program(monkeypatch):
    monkeypatch.setattr("models.fused.post_norm.MOST_PROGRAMS", 2)
    inputs = [normal(7, 8), normal(7, 8, seed=1), *(normal(8, seed=seed) for seed in (2, 3, 4))]
    options = {"dropout": Dropout(0.4, torch.tensor([5], device=DEVICE), 1), "x_bias": inputs[4]}
    got, want = by_both(monkeypatch, lambda: [dropout_add_layer_norm(*inputs[:4], **options).out], inputs)
    assert_near(got, want, FLOAT32)


@on_kernels
@pytest.mark.parametrize(("seed", "call"), [(0, 0), (1, 1), (-7, 5), (2**62 + 3, 2**31 - 1)])
def test_numbers_are_tritons(seed, call):
    import triton
    import triton.language as tl

    @triton.jit
    def draw(seed, counter, out, BLOCK: tl.constexpr):
        counter = tl.load(counter + tl.arange(0, BLOCK))
        for_each = tl.rand4x(tl.load(seed), counter)
        for number in tl.static_range(4):
            tl.store(out + 4 * tl.arange(0, BLOCK) + number, for_each[number])

    rows, dim = 4, 16
    counter, out = torch.arange(rows * dim // 4, device=DEVICE) + (call << 32), torch.empty(rows, dim, device=DEVICE)
    draw[(1,)](torch.tensor([seed], device=DEVICE), counter, out, BLOCK=rows * dim // 4)
    assert torch.equal(out, uniform(torch.tensor([seed], device=DEVICE), call, rows, dim))
