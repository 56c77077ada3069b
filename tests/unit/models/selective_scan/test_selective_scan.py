"""Selective scan: contract, choice of the backend, building the CPU kernel."""

import logging

import pytest
import torch
from torch import Tensor

from bench.plain_scan import plain_scan
from models.selective_scan import compiler, cpu, interface, numba_scan, selective_scan
from models.selective_scan.custom_operator import flatten
from tests.helpers.scans import make_inputs, make_scan, needs_kernel, needs_numba

each_backend = pytest.mark.parametrize(
    "backend", ["reference", pytest.param("cpu", marks=needs_kernel), pytest.param("numba", marks=needs_numba)]
)


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch):
    """No kernel loaded yet and nothing chosen yet, for the length of a test."""
    monkeypatch.setattr(interface, "_CHOSEN", {})
    compiler.load_kernels.cache_clear()
    yield
    compiler.load_kernels.cache_clear()


@each_backend
def test_two_steps_by_hand(backend):
    one = torch.ones(1, 1, 2)
    out = selective_scan(
        2 * one, 3 * one, -torch.ones(1, 1), one, 4 * one, D=torch.tensor([0.5]), backend=backend
    )  # states 6, then exp(-3) * 6 + 6; times C = 4; plus D * u = 1
    torch.testing.assert_close(out, torch.tensor([[[25.0, 4 * (6 * 2.718281828**-3 + 6) + 1]]]))


def test_the_loop_that_speed_is_compared_with_computes_the_same():
    inputs = make_inputs(length=7)
    expected = selective_scan(**inputs, delta_softplus=True, backend="reference")
    torch.testing.assert_close(plain_scan(**inputs), expected)


def test_reference_gradients_are_those_of_finite_differences():
    inputs = make_inputs(batch=1, dim=2, length=4, state=2, dtype=torch.float64)

    def scan(*tensors: Tensor) -> Tensor:
        return selective_scan(*tensors, delta_softplus=True, backend="reference")  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in inputs.values()])


@each_backend
def test_reverse_is_flip_scan_flip(backend):
    inputs = make_inputs(length=21)
    flipped = {name: x.flip(-1) if x.ndim == 3 else x for name, x in inputs.items()}
    out = selective_scan(**inputs, delta_softplus=True, reverse=True, backend=backend)
    torch.testing.assert_close(out, selective_scan(**flipped, delta_softplus=True, backend=backend).flip(-1))


@each_backend
def test_empty_batch_has_gradients(backend):
    inputs = {name: x.requires_grad_() for name, x in make_inputs(batch=0).items()}
    out = selective_scan(**inputs, delta_softplus=True, backend=backend)
    out.sum().backward()
    assert out.shape == (0, 6, 5)
    assert not inputs["A"].grad.any()


@each_backend
@pytest.mark.parametrize("value", [-1e8, -1e4, 1e4, 1e8])
def test_extreme_delta_gives_no_inf_and_no_nan(backend, value):
    inputs = make_inputs(length=20)
    inputs["delta"][..., 3::5] = value
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**inputs, delta_softplus=True, backend=backend)
    grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    assert all(x.isfinite().all() for x in (out, *grads))


@needs_kernel
def test_kernel_agrees_with_reference_after_extreme_delta():
    inputs = make_inputs(length=20)
    inputs["delta"][..., 7] = 1e8
    want = selective_scan(**inputs, delta_softplus=True, backend="reference")
    got = selective_scan(**inputs, delta_softplus=True, backend="cpu")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
def test_any_strides_and_results_in_the_memory_order_of_u(order):
    inputs = make_inputs(batch=3, dim=24, length=20)
    want = selective_scan(**inputs, delta_softplus=True, backend="cpu")
    back = tuple(order.index(axis) for axis in range(3))
    moved = {name: x.permute(order).contiguous().permute(back) if x.ndim == 3 else x for name, x in inputs.items()}
    moved["z"] = moved["z"].repeat_interleave(2, dim=1)[:, ::2]  # neither dense
    moved["u"].requires_grad_()
    out = selective_scan(**moved, delta_softplus=True, backend="cpu")
    (grad,) = torch.autograd.grad(out, moved["u"], torch.ones(()).expand_as(out))
    assert torch.equal(out, want)
    channel_last = moved["u"].stride(1) < moved["u"].stride(2)
    assert all((x.stride(1) == 1) == channel_last for x in (out, grad))


@needs_kernel
def test_every_digit_is_the_same_for_any_number_of_threads():
    inputs = {name: x.requires_grad_() for name, x in make_inputs(batch=3, dim=100, length=40).items()}

    def run() -> list[Tensor]:
        out = selective_scan(**inputs, delta_softplus=True, backend="cpu")
        return [out, *torch.autograd.grad(out.square().sum(), list(inputs.values()))]

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(results[0], other, strict=True))


@needs_kernel
@pytest.mark.parametrize(("u", "delta", "z"), [("bfloat16", "float32", "bfloat16"), ("float32", "bfloat16", "float64")])
def test_mixed_dtypes_are_computed_in_float32(u, delta, z):
    inputs = make_inputs(length=20)
    for name, dtype in {"u": u, "delta": delta, "z": z, "B": u, "A": z}.items():
        inputs[name] = inputs[name].to(getattr(torch, dtype))
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**inputs, delta_softplus=True, backend="cpu")
    want = selective_scan(**{name: x.float() for name, x in inputs.items()}, delta_softplus=True, backend="cpu")
    assert out.dtype == inputs["u"].dtype
    assert torch.equal(out, want.to(out.dtype))
    grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    assert [x.dtype for x in grads] == [x.dtype for x in inputs.values()]


@needs_kernel
def test_custom_operators_are_registered_properly():
    for directions, reverse in ((1, True), (2, False)):
        scan = make_scan(length=18, directions=directions, scale=0.5)
        first = scan.directions[0]._replace(reverse=reverse)
        tensors, options = flatten(scan._replace(directions=(first, *scan.directions[1:]), log_A=False))
        torch.library.opcheck(
            torch.ops.mamba_tbps.selective_scan.default,
            (True, tensors, *options),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@needs_kernel
def test_compiles_without_graph_break():
    inputs = {name: x.requires_grad_() for name, x in make_inputs(length=18).items()}

    def scan(**inputs: Tensor) -> Tensor:
        return selective_scan(**inputs, delta_softplus=True) * 2  # type: ignore[arg-type]

    out = torch.compile(scan, fullgraph=True, backend="aot_eager")(**inputs)
    (grad,) = torch.autograd.grad(out.sum(), inputs["B"])
    want = scan(**inputs)
    assert torch.equal(out, want)
    assert torch.equal(grad, torch.autograd.grad(want.sum(), inputs["B"])[0])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 6), "u must be"),
        ("u", (2, 6, 0), "length > 0"),
        ("delta", (2, 6, 4), "delta must be shaped like u"),
        ("z", (1, 6, 5), "z must be shaped like u"),
        ("A", (5, 3), "A must be"),
        ("A", (6,), "A must be"),
        ("B", (2, 4, 5), "B must be"),
        ("B", (2, 4, 3, 5), "B must be"),
        ("C", (2, 3, 4), "C must be"),
        ("D", (5,), "D must be"),
        ("delta_bias", (6, 1), "delta_bias must be"),
    ],
)
def test_wrong_shapes_are_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**(make_inputs() | {name: torch.zeros(shape)}))


def test_unknown_backend_is_named():
    with pytest.raises(
        ValueError, match="no backend 'gpu'; choose one of auto, triton, mamba-ssm, cpu, numba, reference"
    ):
        selective_scan(**make_inputs(), backend="gpu")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (make_inputs(dtype=torch.float64), "float32 or bfloat16, not torch.float64"),
        (make_inputs(state=65), "64 states"),
    ],
)
def test_kernel_says_what_it_cannot_do_and_auto_does_without(monkeypatch, inputs, message):
    monkeypatch.setattr(numba_scan, "NUMBA", "no-such-numba")
    with pytest.raises(ValueError, match=message):
        selective_scan(**inputs, backend="cpu")
    assert torch.equal(selective_scan(**inputs), selective_scan(**inputs, backend="reference"))


def test_without_a_compiler_auto_takes_the_reference_and_says_so_once(monkeypatch, caplog, fresh_choice):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(numba_scan, "NUMBA", "no-such-numba")
    with caplog.at_level(logging.INFO):
        out = selective_scan(**make_inputs())
        selective_scan(**make_inputs())
    assert torch.equal(out, selective_scan(**make_inputs(), backend="reference"))
    assert [r.message for r in caplog.records] == [
        "selective scan on cpu, torch.float32: backend reference (not cpu: no C compiler (no-such-compiler not found); "
        "install gcc or clang, or set CC; not numba: numba is not installed)"
    ]


def test_a_failing_compiler_is_an_obstacle_in_one_line(monkeypatch, tmp_path, fresh_choice):
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("MAMBA_TBPS_CACHE", str(tmp_path))
    reason = cpu.obstacle("cpu", torch.float32, 16)
    assert reason is not None
    assert reason.startswith("the C compiler failed")
    assert "\n" not in reason
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_cache_folder_is_an_obstacle(monkeypatch, tmp_path, fresh_choice):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MAMBA_TBPS_CACHE", str(tmp_path / "file"))
    reason = cpu.obstacle("cpu", torch.float32, 16)
    assert reason is not None
    assert "MAMBA_TBPS_CACHE" in reason or "no C compiler" in reason


@needs_kernel
def test_kernel_is_built_once_and_found_again(monkeypatch, tmp_path, caplog, fresh_choice):
    monkeypatch.setenv("MAMBA_TBPS_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "FLAGS", ["-std=gnu11", "-O0", "-fPIC", "-Wno-psabi"])  # quick to build
    with caplog.at_level(logging.INFO):
        compiler.load_kernels()
        compiler.load_kernels.cache_clear()
        compiler.load_kernels()
    assert len(list(tmp_path.iterdir())) == 1
    assert [r.message.split(" in ")[0] for r in caplog.records] == ["built the CPU kernel"]
