"""The warning that the matching head learns nothing."""

import itertools
import math

import pytest
import torch

from losses.itm import itm_loss
from training.matching_watch import CHANCE, MatchingWatch


def warnings_of(losses, total_steps, caplog) -> list[str]:
    caplog.clear()
    watch = MatchingWatch(total_steps)
    for step, loss in enumerate(losses, 1):
        watch.see({"itc": 5.0, "itm": loss})
        if caplog.messages:
            return [*caplog.messages, f"step {step}"]
    return []


def test_chance_is_the_best_loss_of_a_head_that_sees_nothing():
    labels = torch.tensor([1, 0, 0]).repeat(4)
    logits = torch.tensor([2 / 3, 1 / 3]).log().expand(12, 2)
    assert float(itm_loss(logits, labels)) == pytest.approx(CHANCE)
    assert pytest.approx(0.6365, abs=1e-4) == CHANCE


def test_a_quarter_of_the_run_at_chance_is_told_once(caplog):
    noise = itertools.cycle([1.03, 0.97])  # single steps lie beyond 1 %
    losses = [CHANCE * next(noise) for _ in range(400)]
    message, step = warnings_of(losses, 400, caplog)
    assert "quarter of the run" in message
    assert "\n" not in message
    assert step == "step 100"
    caplog.clear()
    watch = MatchingWatch(400)
    for loss in losses:
        watch.see({"itm": loss})
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("level", [CHANCE * 1.02, CHANCE * 0.98, math.nan])
def test_another_level_is_not_chance(level, caplog):
    assert warnings_of([level] * 400, 400, caplog) == []


def test_learning_in_between_starts_the_count_anew(caplog):
    losses = [CHANCE] * 90 + [0.5] * 20 + [CHANCE] * 290
    assert warnings_of(losses, 400, caplog)[1] == "step 210"
    assert warnings_of([CHANCE] * 90 + [0.5] * 310, 400, caplog) == []


def test_runs_without_itm_and_short_runs(caplog):
    watch = MatchingWatch(40)
    for _ in range(40):
        watch.see({"itc": 5.0})
    assert caplog.messages == []
    assert warnings_of([CHANCE] * 39, 39, caplog) == []
    assert warnings_of([CHANCE] * 40, 40, caplog)[1] == "step 10"
