"""When an operator runs its kernel: only where the self-test finds that it works."""

import logging
import re

import pytest
import torch

from models.fused import add_rms_norm, operators, use_kernels
from models.fused.operators import Fused


@pytest.fixture(autouse=True)
def fresh():
    use_kernels.cache_clear()
    yield
    use_kernels.cache_clear()


def operator_with(kernel):
    return Fused(plain=lambda x: x + 1, kernel=kernel, examples=lambda device_type: [(torch.ones(3),)])


def test_a_cpu_runs_the_plain_implementation(caplog):
    assert not use_kernels("add_norm", "cpu")
    assert caplog.messages == []


def test_a_kernel_that_works_is_used(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setitem(operators.OPERATORS, "tried", operator_with(lambda x: x + 1))
    assert use_kernels("tried", "cuda")


def broken(x):
    raise RuntimeError("no compiler\nand a long explanation")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (broken, "RuntimeError: no compiler"),
        (lambda x: x + 2, r"self-test is 5\.0e-01 away"),
        (lambda x: x * torch.nan, "self-test is nan away"),
    ],
)
def test_a_kernel_that_fails_is_left_with_one_line(monkeypatch, caplog, kernel, reason):
    pytest.importorskip("triton")
    monkeypatch.setitem(operators.OPERATORS, "tried", operator_with(kernel))
    with caplog.at_level(logging.WARNING):
        assert not use_kernels("tried", "cuda")
        assert not use_kernels("tried", "cuda")
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]
    assert re.search(reason, caplog.messages[0])


def test_without_triton(monkeypatch):
    monkeypatch.setattr(operators.importlib.util, "find_spec", lambda name: None)
    assert operators.trouble(operators.OPERATORS["add_norm"], "cuda") == "triton is not installed"


@pytest.mark.parametrize(("dtype", "rows"), [(torch.float64, 2), (torch.float32, 0)])
def test_what_kernels_do_not_take_runs_plain(monkeypatch, dtype, rows):
    monkeypatch.setattr(operators, "use_kernels", lambda *_: pytest.fail("the kernel would be launched"))
    residual = torch.ones(rows, 3, 4, dtype=dtype)
    assert add_rms_norm(residual, None, None, torch.ones(4, dtype=dtype)).normed.shape == residual.shape
