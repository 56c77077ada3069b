"""Optional backends of the selective scan: mamba-ssm (through a stand-in where it is not installed) and numba."""

import importlib.machinery
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.mamba_mixer import BidirectionalMambaMixer
from models.selective_scan import __main__ as doctor
from models.selective_scan import interface, mamba_ssm, numba_scan, selective_scan, self_test
from tests.helpers.scans import make_inputs, make_mixer, mixer_results, needs_numba, results_by_name


def published_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False) -> Tensor:  # type: ignore[no-untyped-def]
    """As selective_scan_fn of mamba-ssm, with what its kernels insist on."""
    assert all(x is None or x.dtype == torch.float32 for x in (A, D, delta_bias))
    assert all(x is None or x.dtype == u.dtype for x in (delta, B, C, z))
    assert B.ndim == C.ndim == 4
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, backend="reference")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """install(scan) puts a mamba-ssm in place that scans so, on the CPU, which then counts as its GPU."""

    def put(scan: Callable[..., Tensor]) -> None:
        for name in ("mamba_ssm", "mamba_ssm.ops", mamba_ssm.MODULE):
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            monkeypatch.setitem(sys.modules, name, module)
        sys.modules[mamba_ssm.MODULE].selective_scan_fn = scan  # type: ignore[attr-defined]
        monkeypatch.setattr(mamba_ssm, "DEVICE_TYPE", "cpu")

    monkeypatch.setattr(interface, "_CHOSEN", {})
    self_test.trouble.cache_clear()
    yield put
    self_test.trouble.cache_clear()


def results(inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    return list(results_by_name(inputs, **options).values())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("without", [(), ("z", "D", "delta_bias")])
def test_mamba_ssm_gets_what_it_needs_in_either_direction(install, reverse, without):
    install(published_scan)
    inputs = {name: x for name, x in make_inputs(length=7).items() if name not in without}
    options = {"delta_softplus": True, "reverse": reverse}
    for got, want in zip(
        results(inputs, **options, backend="mamba-ssm"), results(inputs, **options, backend="reference"), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_mamba_ssm_in_mixed_dtypes(install):
    install(published_scan)
    inputs = make_inputs(length=7)
    inputs |= {name: inputs[name].bfloat16() for name in ("u", "delta", "z")}
    out = selective_scan(**inputs, delta_softplus=True, backend="mamba-ssm")
    assert out.dtype == torch.bfloat16
    want = selective_scan(**inputs, delta_softplus=True, backend="reference")
    torch.testing.assert_close(out, want, rtol=2**-6, atol=2**-6)  # B and C are rounded to bfloat16 as well


def test_mamba_ssm_scans_both_directions_in_one_call(install):
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments[0].shape)
        return published_scan(*arguments)

    install(counted)
    assert interface.choose_backend("mamba-ssm", "cpu", torch.float32, 4) == "mamba-ssm"
    calls.clear()
    tokens = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mixer = make_mixer()
    want = mixer_results(mixer, tokens)
    got = mixer_results(mixer, tokens, "mamba-ssm")
    assert calls == [(2, 40, 6)]
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_auto_takes_a_working_mamba_ssm_first(install, caplog):
    install(published_scan)
    with caplog.at_level(logging.INFO):
        assert interface.choose_backend("auto", "cpu", torch.float32, 16) == "mamba-ssm"
    assert [r.message for r in caplog.records] == ["selective scan on cpu, torch.float32: backend mamba-ssm"]


@pytest.mark.parametrize("trouble", [None, "it is installed but does not work: RuntimeError: no C compiler"])
def test_auto_takes_triton_before_mamba_ssm_where_its_self_test_passes(install, monkeypatch, caplog, trouble):
    install(published_scan)
    triton = interface.BACKENDS["triton"]._replace(obstacle=lambda *_: trouble, device_type="cpu")
    monkeypatch.setattr(interface, "BACKENDS", interface.BACKENDS | {"triton": triton})
    with caplog.at_level(logging.INFO):
        chosen = interface.choose_backend("auto", "cpu", torch.float32, 16)
    assert chosen == ("triton" if trouble is None else "mamba-ssm")
    assert ("not triton: it is installed but does not work" in caplog.text) == (trouble is not None)


def wrong(*arguments: Any) -> Tensor:
    return published_scan(*arguments) * 1.01


def without_gradient_of_delta(u: Tensor, delta: Tensor, *others: Any) -> Tensor:
    return published_scan(u, delta.detach() + 0 * delta, *others)


def not_a_number(*arguments: Any) -> Tensor:
    return published_scan(*arguments) * float("nan")


def broken(*arguments: Any) -> Tensor:
    raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")


@pytest.mark.parametrize(
    ("scan", "reason"),
    [
        (wrong, "self-test is 1.0e-02 away|self-test is 2.0e-02 away"),
        (without_gradient_of_delta, "away from the reference"),
        (not_a_number, "self-test is nan away"),
        (broken, "does not work: RuntimeError: CUDA error: no kernel image is available$"),
    ],
)
def test_a_mamba_ssm_that_fails_its_self_test_is_not_taken(install, caplog, monkeypatch, scan, reason):
    install(scan)
    monkeypatch.setattr(
        interface,
        "BACKENDS",
        interface.BACKENDS | {"mamba-ssm": interface.BACKENDS["mamba-ssm"]._replace(device_type="cpu")},
    )
    with caplog.at_level(logging.INFO):
        assert interface.choose_backend("auto", "cpu", torch.float32, 16) != "mamba-ssm"
    assert "not mamba-ssm: it is installed but" in caplog.text
    with pytest.raises(ValueError, match=reason):
        selective_scan(**make_inputs(), backend="mamba-ssm")


def test_a_mamba_ssm_that_cannot_be_imported_is_not_taken(install, monkeypatch):
    install(published_scan)
    monkeypatch.delitem(sys.modules, mamba_ssm.MODULE)
    reason = mamba_ssm.obstacle("cpu", torch.float32, 16)
    assert reason is not None
    assert "does not work: ModuleNotFoundError" in reason


def test_mamba_ssm_says_what_it_cannot_do(install):
    install(published_scan)
    assert "float64" in str(mamba_ssm.obstacle("cpu", torch.float64, 16))
    assert "256 states" in str(mamba_ssm.obstacle("cpu", torch.float32, 257))
    assert mamba_ssm.obstacle("xpu", torch.float32, 16) == "it needs tensors on a GPU, not on xpu"


def test_mamba_ssm_takes_an_empty_batch(install):
    install(published_scan)
    out, *grads = results(make_inputs(batch=0), delta_softplus=True, backend="mamba-ssm")
    assert out.shape == (0, 6, 5)
    assert not any(grad.any() for grad in grads)


@needs_numba
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("without", [(), ("z",), ("D", "delta_bias")])
def test_numba_agrees_with_the_reference(reverse, without):
    inputs = {name: x for name, x in make_inputs(batch=3, dim=22, length=33, state=5).items() if name not in without}
    options = {"delta_softplus": True, "reverse": reverse}
    exact = results({name: x.double() for name, x in inputs.items()}, **options, backend="reference")
    for got, want in zip(results(inputs, **options, backend="numba"), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@needs_numba
def test_numba_with_groups_in_bfloat16_and_the_memory_order_of_u():
    inputs = make_inputs(dim=6, length=9)
    for name in ("B", "C"):
        inputs[name] = inputs[name][:, None].repeat(1, 3, 1, 1) * torch.arange(1.0, 4).view(1, 3, 1, 1)
    inputs |= {name: inputs[name].bfloat16() for name in ("u", "delta", "z")}
    inputs["u"] = inputs["u"].transpose(1, 2).contiguous().transpose(1, 2)
    out = selective_scan(**inputs, delta_softplus=True, backend="numba")
    want = selective_scan(**inputs, delta_softplus=True, backend="reference")
    assert (out.dtype, out.stride(1)) == (torch.bfloat16, 1)
    torch.testing.assert_close(out, want, rtol=2**-7, atol=2**-7)


def test_numba_says_what_it_cannot_do(monkeypatch):
    assert "float64" in str(numba_scan.obstacle("cpu", torch.float64, 16))
    assert numba_scan.obstacle("cuda", torch.float32, 16) == "it needs tensors on the CPU, not on cuda"
    monkeypatch.setattr(numba_scan, "NUMBA", "no-such-numba")
    assert numba_scan.obstacle("cpu", torch.float32, 16) == "numba is not installed"


def test_the_doctor_reports_a_backend_that_fails_and_goes_on(monkeypatch, capsys):
    broken_backend = interface.Backend(broken, lambda *_: None)
    monkeypatch.setattr(interface, "_CHOSEN", {})
    backends = {"broken": broken_backend, "reference": interface.BACKENDS["reference"]}
    monkeypatch.setattr(interface, "BACKENDS", backends)
    monkeypatch.setattr(doctor, "BACKENDS", backends)
    monkeypatch.setattr(doctor, "SHAPE", (1, 4, 9, 2))
    doctor.examine("cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("broken       fails: RuntimeError: CUDA error: no kernel image is available")
    assert lines[3].startswith("reference ")
    assert lines[4] == "auto takes: broken"


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or mamba_ssm.obstacle("cuda", torch.float32, 16) is not None,
    reason="no GPU with a working mamba-ssm",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 64, 129, 197, 577])
def test_mamba_ssm_on_a_gpu(length, reverse, dtype):
    inputs = make_inputs(batch=2, dim=32, length=length, state=16)
    inputs |= {name: inputs[name].to(dtype) for name in ("u", "delta", "z", "B", "C")}
    options = {"delta_softplus": True, "reverse": reverse}
    exact = results({name: x.double() for name, x in inputs.items()}, **options, backend="reference")
    tolerance = 1e-4 if dtype == torch.float32 else 2**-6
    got = results({name: x.cuda() for name, x in inputs.items()}, **options, backend="mamba-ssm")
    for x, want in zip(got, exact, strict=True):
        # At length 1 the gradient of A is exactly 0. mamba-ssm takes the state before a step to be the state minus what
        # the step adds, so the rounding of two equal products (4e-7 measured in bf16) is left there.
        atol = max(tolerance * want.abs().max().item(), 1e-5)
        torch.testing.assert_close(x.cpu().double(), want, rtol=tolerance, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["mamba-ssm", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_mixer_on_a_gpu(backend, dtype):
    reason = interface.BACKENDS[backend].obstacle("cuda", dtype, 16)
    if reason is not None:
        pytest.skip(reason)
    tokens = torch.randn(3, 197, 96, generator=torch.Generator().manual_seed(0))
    exact, exact_tokens = make_mixer(96, 16).double(), tokens.double().requires_grad_()
    want = mixer_results(exact, exact_tokens)
    mixer, tokens = make_mixer(96, 16).cuda(), tokens.cuda().requires_grad_()
    assert isinstance(mixer, BidirectionalMambaMixer)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        got = mixer_results(mixer, tokens, backend)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    for name, x in got.items():
        deviation = (x.cpu().double() - want[name]).norm() / want[name].norm()
        assert deviation < tolerance, name
