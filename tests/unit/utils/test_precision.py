"""Which precision "auto" is, and what scales gradients."""

import pytest
import torch

from utils import precision
from utils.precision import autocast, gradient_scaler


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
