"""Random state: equal draws after restoring it, through a file that torch reads with weights_only=True."""

import random

import numpy as np
import pytest
import torch

from utils.seed import get_random_state, make_deterministic, seed_everything, set_random_state


@pytest.fixture(autouse=True)
def leave_no_trace(monkeypatch):
    state = get_random_state()
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    set_random_state(state)
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(deterministic)


def draws() -> list[float]:
    """An odd number of normal draws leaves a second one waiting in Python's and NumPy's generators."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(1).item()]


def test_same_seed_same_draws():
    seed_everything(3)
    first = draws()
    assert draws() != first
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert all(new != old for new, old in zip(draws(), first, strict=True))


def test_restored_state_continues_exactly(tmp_path):
    seed_everything(3)
    draws()
    torch.save(get_random_state(), tmp_path / "state.pt")
    expected = draws() + draws()
    seed_everything(4)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() + draws() == expected


def test_deterministic():
    torch.backends.cudnn.benchmark = True
    make_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.gpu
def test_restored_state_continues_on_a_gpu():
    seed_everything(3)
    state = get_random_state()
    expected = torch.randn(4, device="cuda")
    set_random_state(state)
    torch.testing.assert_close(torch.randn(4, device="cuda"), expected, rtol=0, atol=0)
