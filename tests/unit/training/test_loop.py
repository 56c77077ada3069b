"""Losses on their way to the host, a batch in parts, layers that are computed again."""

import copy
from typing import NamedTuple

import pytest
import torch

from dataset.texts import Texts
from losses import OBJECTIVES
from losses.mlm import MaskedWords
from losses.mrtd import ReplacedTokens
from losses.objective import Lesson
from tests.helpers.heads import SETTINGS
from tests.helpers.tiny_models import BERT, tiny_model
from training import progress
from training.loop import alpha_at, curriculum_at, hours
from training.parallel import checkpoint_activations, layers_of
from training.progress import LossReader, TrainingBar
from training.step import shares_of, split
from utils.distributed import finish


def test_losses_are_summed_and_one_that_is_not_finite_names_its_step():
    sums = {"itc": 1.0}
    reader = LossReader(sums)
    reader.read(1, {"itc": torch.tensor(2.0), "total": torch.tensor(4.0)})
    reader.add(seconds=0.5)
    assert sums == {"itc": 3.0, "total": 4.0, "seconds": 0.5}
    assert reader.losses == {"itc": 2.0, "total": 4.0}
    with pytest.raises(FloatingPointError, match=r"^step 2: total nan; the checkpoints written before are good, lower"):
        reader.read(2, {"itc": torch.tensor(2.0), "total": torch.tensor(float("nan"))})


THREE = [OBJECTIVES[key](SETTINGS) for key in ("itc", "mlm", "mrtd")]


class Pair(NamedTuple):
    image: torch.Tensor
    text: Texts


def test_a_batch_in_parts_keeps_its_kinds_and_order():
    rows = torch.arange(12).view(6, 2)
    parts = split(Pair(rows, Texts(rows, rows + 1, rows + 2)), 3)
    assert [type(part.text) for part in parts] == [Texts] * 3
    assert torch.equal(torch.cat([part.text.attribute_ids for part in parts]), rows + 2)
    assert all(part.image.shape == (2, 2) for part in parts)


def lesson(mlm: torch.Tensor, mrtd: torch.Tensor) -> Lesson:
    """With these labels, and nothing else that shares depend on."""
    prepared = {"itc": None, "mlm": MaskedWords(mlm, mlm, mlm, mlm), "mrtd": ReplacedTokens(mrtd, mrtd)}
    return Lesson(batch=None, pairs=None, own_pairs={}, image=None, momentum=None, prepared=prepared)


def test_parts_count_by_their_words_or_their_pairs():
    mrtd = torch.tensor([[1, 0, -100], [0, -100, -100]])
    lessons = [lesson(torch.arange(1), mrtd), lesson(torch.arange(3), torch.full((2, 3), -100))]
    shares = finish(shares_of(lessons, THREE))
    assert [float(share["mlm"]) for share in shares] == [0.25, 0.75]
    assert [float(share["mrtd"]) for share in shares] == [1, 0]
    assert [share["itc"] for share in shares] == [0.5, 0.5]


def test_one_part_of_one_process_needs_no_factor():
    assert finish(shares_of([lesson(torch.arange(7), torch.zeros(1, 2))], THREE)) == [{}]


def test_nothing_to_predict_is_no_error():
    none = lesson(torch.arange(0), torch.full((2, 3), -100))
    for share in finish(shares_of([none, none], THREE)):
        assert share["mlm"] == share["mrtd"] == 0


@pytest.mark.parametrize("image", ["vim", "mamba_reg", "vit"])
def test_layers_computed_again_give_the_same_gradients(image):
    model = tiny_model(image).train()
    again = copy.deepcopy(model)
    assert len(layers_of(model)) == 2 + BERT.num_hidden_layers + 1  # image encoder, BERT, decoder
    checkpoint_activations(again)
    ids, mask = torch.randint(1, 30, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    saved = []
    for each in (model, again):
        held: list[int] = []
        torch.manual_seed(1)  # dropout
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            features, _ = each.encode_image(torch.linspace(-1, 1, 3 * 3 * 32 * 32).view(3, 3, 32, 32))
            score = each.match(ids, mask, features.tokens)
        score.square().sum().backward()
        saved.append(sum(held))
    assert saved[1] < saved[0] / 2
    for (name, one), (other_name, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize(("seconds", "text"), [(7.26, "7.3 s"), (60, "0:01 h"), (5 * 3600 + 59 * 60 + 40, "6:00 h")])
def test_hours(seconds, text):
    assert hours(seconds) == text


def test_the_bar_shows_as_many_losses_as_fit(monkeypatch):
    losses = {"itc": 3.941, "itm": 0.6382, "attribute": 0.7074, "total": 14.44}
    bar = TrainingBar(8, "epoch 1/30")
    assert bar.note(120) == "step 0"
    bar.show(12, losses)
    assert bar.note(120) == "step 12  total 14.44  itc 3.94  itm 0.638  attribute 0.707"
    assert bar.note(50) == "step 12  total 14.44  itc 3.94  itm 0.638"
    assert bar.note(5) == "step 12"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * 2**29)
    assert bar.note(50) == "step 12  GPU 2.5 GiB  total 14.44  itc 3.94"


def test_soft_targets_rise_over_the_first_epoch():
    assert [alpha_at(step, 4, 0.4, True) for step in (0, 1, 4, 9)] == pytest.approx([0, 0.1, 0.4, 0.4])
    assert [alpha_at(step, 4, 0.4, False) for step in (0, 9)] == [0.4, 0.4]


def test_negatives_are_hard_from_a_step_on(debug_config):
    losses = debug_config("losses.hard_negatives_after_steps=3", "losses.warm_up=false").losses
    assert [curriculum_at(step, 9, losses) for step in (0, 2, 3)] == [(0.4, 0.0), (0.4, 0.0), (0.4, 1.0)]
    assert curriculum_at(0, 9, debug_config().losses).hardness == 1  # as published


def test_losses_are_averaged_over_the_processes(monkeypatch):
    monkeypatch.setattr(progress, "mean", lambda own: (own + torch.tensor([5.0, 7.0])) / 2)  # of two
    reader = LossReader({})
    reader.read(1, {"mlm": torch.tensor(1.0), "total": torch.tensor(2.0)})
    assert reader.losses == {"mlm": 3.0, "total": 4.5}
