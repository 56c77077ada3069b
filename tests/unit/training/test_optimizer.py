"""Parameter groups and the schedule, by hand and against the groups and rates that MAMBA-TBPS trains with."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.paths import VECTORS
from tests.helpers.steps import build_learner
from training.optimizer import build_schedule, learning_rates, parameter_groups

PUBLISHED = json.loads((VECTORS / "optim" / "optim.json").read_text())["cases"]
# The published groups decay these, ours do not: Mamba and Vim exempt their states and positions, MAE its tokens.
NOT_DECAYED_HERE = ("A_log", "A_b_log", "pos_embed", "position_embeddings.weight", "cls_token", "mask_token", "temp")


def groups_by_name(model, filled=()):
    groups = parameter_groups(model, filled=filled, lr=1.0, lr_new=10.0, weight_decay=0.1)
    owner = {parameter: group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(owner)  # none twice
    assert len({(group["lr"], group["weight_decay"]) for group in groups}) == len(groups)
    return {name: owner[parameter] for name, parameter in model.named_parameters()}


def test_no_decay_for_vectors_states_and_positions(debug_config):
    model = build_learner(debug_config()).model
    for name, group in groups_by_name(model).items():
        parameter = model.get_parameter(name)
        exempt = parameter.ndim < 2 or name.endswith(NOT_DECAYED_HERE)
        assert group["weight_decay"] == (0 if exempt else 0.1), name
    some = groups_by_name(model)
    assert some["image_encoder.layers.0.mixer.A_b_log"]["weight_decay"] == 0
    assert some["decoder.pos_embed"]["weight_decay"] == 0
    assert some["image_encoder.layers.0.mixer.conv1d.weight"]["weight_decay"] == 0.1
    assert some["text_encoder.bert.embeddings.word_embeddings.weight"]["weight_decay"] == 0.1


def test_what_a_checkpoint_filled_trains_at_lr_all_else_at_lr_new(debug_config):
    model = build_learner(debug_config()).model
    filled = [name for name, _ in model.named_parameters() if name.startswith("image_encoder.")]
    for name, group in groups_by_name(model, filled).items():
        assert (group["name"], group["lr"]) == (("lr", 1.0) if name in filled else ("lr_new", 10.0))


def test_rates_are_told_by_name_also_where_they_are_equal_or_all_of_one_kind():
    model = nn.Linear(2, 2)
    for filled, expected in ((["weight"], {"lr": 3.0, "lr_new": 3.0}), ([], {"lr_new": 3.0})):
        groups = parameter_groups(model, filled=filled, lr=3.0, lr_new=3.0, weight_decay=0.0)
        assert learning_rates(torch.optim.AdamW(groups)) == expected
    swapped = parameter_groups(model, filled=["weight"], lr=2.0, lr_new=1.0, weight_decay=0.0)  # lr above lr_new
    assert learning_rates(torch.optim.AdamW(swapped)) == {"lr": 2.0, "lr_new": 1.0}


def test_frozen_parameters_are_in_no_group():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = parameter_groups(model, filled=[], lr=1, lr_new=1, weight_decay=1)
    assert group["params"] == [model.weight]


def test_decay_of_the_published_groups():
    """The same parameters decay, except those that design decided otherwise about."""
    published = {
        name: group["weight_decay"] > 0 for group in PUBLISHED["cuhk_yaml"]["groups"] for name in group["params"]
    }
    # The vectors hold names only; published, everything but vectors and biases decays, and "temp" is a scalar.
    shapes = {name: () if name == "temp" else (1, 1) if decayed else (1,) for name, decayed in published.items()}
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    model = SimpleNamespace(named_parameters=lambda: parameters.items())
    decays_here = {name: group["weight_decay"] > 0 for name, group in groups_by_name(model).items()}
    exempt = {name for name in published if name.endswith(NOT_DECAYED_HERE)}
    assert {name for name in published if decays_here[name] != published[name]} == exempt
    assert not any(decays_here[name] for name in exempt)


def rates(steps, **schedule):
    """Learning rate of every step, for a peak of 1."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    lr = build_schedule(optimizer, **schedule)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        lr.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


def test_warm_up_is_linear_and_the_cosine_ends_at_its_fraction():
    seen = rates(14, total_steps=14, warmup_steps=4, final_factor=0.1)
    assert seen[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert seen[9] == pytest.approx(0.55)  # half way
    assert seen[14] == pytest.approx(0.1)
    assert seen[4:] == sorted(seen[4:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak():
    assert rates(2, total_steps=2, warmup_steps=0, final_factor=0.0) == pytest.approx([1.0, 0.5, 0.0])


def test_the_rate_stays_at_its_end_behind_the_last_step():
    assert rates(9, total_steps=5, warmup_steps=0, final_factor=0.2)[5:] == pytest.approx([0.2] * 5)


def test_a_warm_up_longer_than_the_run():
    assert rates(3, total_steps=3, warmup_steps=10, final_factor=0.1) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_cosine_of_the_published_schedule():
    """Published: a step per epoch, ours per batch; they meet at every epoch's start. relative 1e-9.

    Only the rate of pretrained parameters: theirs for the new heads ends at the same min_lr, ours at the same fraction.
    """
    case = PUBLISHED["cuhk_yaml"]
    peak, end, epochs = (case["schedular"][key] for key in ("lr", "min_lr", "epochs"))
    per_epoch = 5
    own = rates(epochs * per_epoch, total_steps=epochs * per_epoch, warmup_steps=0, final_factor=end / peak)
    published = {row["when"]: row["lr"][0] for row in case["lr_log"]}
    for epoch in range(epochs):
        assert peak * own[epoch * per_epoch] == pytest.approx(published[f"epoch {epoch} start"], rel=1e-9)
