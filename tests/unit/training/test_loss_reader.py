"""Losses of a GPU reach the host one step late: reading them never waits for the step that has just been launched."""

import pytest
import torch

from training import progress
from training.progress import LossReader


class OnGPU(torch.Tensor):
    is_cuda = True


@pytest.fixture
def waited_for(monkeypatch):
    """Losses pretend to come from a GPU. Returns: the numbers of the copies that the host has waited for."""
    waited, number = [], iter(range(1, 100))

    class Event:
        def __init__(self):
            self.number = next(number)

        def record(self):
            pass

        def synchronize(self):
            waited.append(self.number)

    monkeypatch.setattr(progress, "mean", lambda own: own.as_subclass(OnGPU))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    return waited


def test_the_host_waits_for_the_step_before(waited_for):
    reader = LossReader({})
    for step in (1, 2, 3):
        reader.read(step, {"itc": torch.tensor(float(step))})
        assert waited_for == list(range(1, step))
        assert reader.losses == ({"itc": step - 1.0} if step > 1 else {})
    reader.read_rest()
    assert waited_for == [1, 2, 3]
    assert reader.sums == {"itc": 6.0}


def test_the_next_step_may_write_its_losses_over_them(waited_for):
    """As a CUDA graph does."""
    reader, loss = LossReader({}), torch.tensor(1.0)
    reader.read(1, {"itc": loss})
    loss.fill_(2.0)
    reader.read(2, {"itc": loss})
    reader.read_rest()
    assert reader.sums == {"itc": 3.0}


def test_a_late_loss_that_is_not_finite_names_its_own_step(waited_for):
    reader = LossReader({})
    reader.read(1, {"itc": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match=r"^step 1: itc nan"):
        reader.read(2, {"itc": torch.tensor(1.0)})
