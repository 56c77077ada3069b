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


@pytest.mark.parametrize(("capabilities", "chosen"), [({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")])
def test_auto_on_cpus(monkeypatch, capabilities, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.best_precision.__wrapped__("cpu") == chosen


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
