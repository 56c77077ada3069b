"""An objective that only this file knows trains with the others, in one process and in two.

As a program for torchrun: python -m torch.distributed.run ... -m tests.e2e.test_new_objective [arguments of train.py]
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import train
from dataset.batches import TrainBatch
from dataset.texts import Places, TextRows, is_class_token, join_rows
from losses import OBJECTIVES
from losses.objective import Objective, Question, Step
from tests.helpers.paths import REPOSITORY
from tests.helpers.runs import refused, train_and_record, train_command
from tests.helpers.steps import build_learner
from training.checkpoint import load_checkpoint
from utils.config import load_config
from utils.seed import seed_everything

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


class Reversed(NamedTuple):
    input_ids: Tensor  # (n, L) own captions, some with their words in reverse order
    is_reversed: Tensor  # (n,) bool


def order_loss(logits: Tensor, is_reversed: Tensor) -> Tensor:
    """Binary cross-entropy of "are the words in reverse order?": (R,), (R,) -> scalar."""
    return F.binary_cross_entropy_with_logits(logits.float(), is_reversed.float())


class WordOrder(Objective[Reversed]):
    """Tell captions from captions read backwards. Two rows of the cross-modal pass for each pair."""

    key = "order"
    has_rows = True

    def heads(self, text_width: int, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"order_head": nn.Linear(text_width, 1)}

    def prepare(self, pairs: TrainBatch, question: Question | None, answer: Tensor | None) -> Reversed:
        ids, length = pairs.text_1.input_ids, pairs.text_1.attention_mask.sum(dim=1, keepdim=True)
        column = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        backwards = ids.gather(1, torch.where((column > 0) & (column < length), length - column, column))
        is_reversed = torch.rand(len(ids), device=ids.device) < 0.5
        return Reversed(torch.where(is_reversed[:, None], backwards, ids), is_reversed)

    def rows(self, pairs: TrainBatch, prepared: Reversed) -> TextRows:
        tokens = pairs.text_1.tokens()
        wanted = Places(is_class_token(tokens.mask), None if tokens.at_most is None else len(tokens.mask))
        own = TextRows(pairs.text_1.input_ids, tokens, wanted)
        return join_rows([own, own._replace(input_ids=prepared.input_ids)])

    def loss(self, step: Step, prepared: Reversed) -> Tensor:
        logits = step.model.head("order_head")(step.passes.own_hidden[self.key][:, 0])[:, 0]  # (2n,)
        return order_loss(logits, torch.cat([torch.zeros_like(prepared.is_reversed), prepared.is_reversed]))


@pytest.fixture
def arguments(debug_settings, tmp_path):
    """Makes arguments of two steps of 12 samples with this objective on: arguments("train.batch_size=6")."""
    _, debug_config, *settings = debug_settings("train.epochs=1", "train.stop_after_steps=2")
    config = tmp_path / "order.yaml"
    config.write_text(f"base: {debug_config}\nlosses: {{weights: {{order: 0.5}}}}\n")

    def of(*more: str) -> list[str]:
        return ["--config", str(config), *settings, *more, "--output", str(tmp_path / "run")]

    return of


def check(folder: Path) -> None:
    """Its loss is finite, its head has left its initial weights, and the other objectives are still there."""
    content = load_checkpoint(folder / "last.pth")
    assert content["step"] == 2
    assert content["sums"].keys() >= {*OBJECTIVES, "total"}
    assert 0 < content["sums"]["order"] < 20
    config = load_config(folder / "config.yaml", losses=OBJECTIVES)
    seed_everything(config.train.seed)
    initial = build_learner(config).model.state_dict()
    assert content["model"].keys() == initial.keys()
    for name in ("order_head.weight", "order_head.bias", "itm_head.weight"):
        assert not torch.equal(content["model"][name], initial[name])


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "order", WordOrder)


def test_in_one_process(arguments, tmp_path):
    steps = train_and_record(arguments("train.batch_size=12"))
    assert all(step.keys() == {*OBJECTIVES, "total"} for step in steps)
    weights = load_config(tmp_path / "run" / "config.yaml", losses=OBJECTIVES).losses.weights
    for step in steps:
        assert step["total"] == pytest.approx(sum(weights[key] * step[key] for key in OBJECTIVES), rel=1e-5)
    assert steps[0]["order"] == pytest.approx(torch.tensor(2.0).log().item(), abs=0.5)  # nothing learnt yet
    check(tmp_path / "run")


def test_in_two_processes(arguments, tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*LAUNCHED, "-m", "tests.e2e.test_new_objective", *arguments("train.batch_size=6", "train.accumulate=2")]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "run")


def test_without_it_the_weight_is_an_unknown_key(arguments, capsys, monkeypatch):
    monkeypatch.delitem(OBJECTIVES, "order")
    message = refused(train_command, arguments(), capsys)
    assert "order.yaml:2: losses.weights.order: unknown key; valid keys: itc, itm, mlm, prd" in message


def main() -> None:
    OBJECTIVES["order"] = WordOrder
    train.main(sys.argv[1:])


if __name__ == "__main__":
    main()
