"""Which precision "auto" is, and what scales gradients."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from utils import precision
from utils.precision import attention_dtype, autocast, gradient_scaler


@pytest.mark.parametrize(("has_bf16", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_new_and_old_gpus(monkeypatch, has_bf16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert precision.best_precision.__wrapped__("cuda") == chosen


@pytest.mark.parametrize(
    ("instructions", "speedup", "chosen"),
    [
        ("amx_bf16", 4.0, "bf16"),
        ("avx512_bf16", 2.0, "bf16"),
        ("avx512_bf16", 0.7, "fp32"),
        ("avx512_bf16", 1.1, "fp32"),
    ],
)
def test_auto_on_cpus_with_bf16_instructions(monkeypatch, instructions, speedup, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True})
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)
    assert precision.best_precision.__wrapped__("cpu") == chosen


def test_auto_measures_nothing_on_cpus_without_bf16_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.delattr(precision, "bf16_speedup")
    assert precision.best_precision.__wrapped__("cpu") == "fp32"


def test_the_speedup_is_that_of_the_fastest_repeats(monkeypatch):
    """Begin and end of fp32 and bf16 in turns: warm-up 9 and 9 s, then 4 and 2 s, and 6 and 1 s."""
    durations = iter([9, 9, 4, 2, 6, 1])
    clock = iter([moment for seconds in durations for moment in (0.0, float(seconds))])
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock))
    assert precision.bf16_speedup(repeats=2) == 4 / 1


def test_the_speedup_is_measured_in_both_dtypes_and_draws_nothing(monkeypatch):
    seen = []
    linear = precision.F.linear
    monkeypatch.setattr(
        precision.F, "linear", lambda x, weight: seen.append((x.dtype, weight.dtype)) or linear(x, weight)
    )
    before = torch.get_rng_state()
    assert precision.bf16_speedup(repeats=1) > 0
    assert seen == [(torch.float32,) * 2, (torch.bfloat16,) * 2] * 2
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "dtype", "scales"),
    [("fp32", torch.float32, False), ("bf16", torch.bfloat16, False), ("fp16", torch.float16, True)],
)
def test_products_and_gradients(name, dtype, scales):
    cpu = torch.device("cpu")
    with autocast(cpu, name):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    loss = torch.tensor(2.0)
    assert (gradient_scaler(cpu, name).scale(loss) > loss) == scales


@pytest.mark.parametrize(
    ("device", "dtype", "trained", "chosen"),
    [
        ("cpu", torch.bfloat16, True, torch.float32),
        ("cpu", torch.bfloat16, False, torch.bfloat16),
        ("cpu", torch.float32, True, torch.float32),
        ("cuda", torch.bfloat16, True, torch.bfloat16),
        ("cuda", torch.float16, True, torch.float16),
    ],
)
def test_only_trained_bf16_attention_on_a_cpu_is_computed_in_fp32(device, dtype, trained, chosen):
    with FakeTensorMode():  # a GPU need not be there
        queries = torch.empty(1, 1, 2, 4, device=device, dtype=dtype, requires_grad=trained)
        assert attention_dtype(queries) == chosen
