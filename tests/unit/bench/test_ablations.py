"""bench.ablations and bench.twins: the variants, and what is measured of a run."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import ablations, twins
from bench.ablations import variants_of
from dataset.synthpedes.files import people_of
from models.person_search import PersonSearchModel
from tests.helpers.runs import copy_of, train_and_record
from tests.helpers.tiny_models import tiny_model
from utils.config import load_config, save_config
from utils.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory, debug_settings) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_and_record([*debug_settings("train.epochs=1", "train.stop_after_steps=1"), "--output", str(folder)])
    return folder


def test_each_variant_differs_in_one_thing(debug_config, tmp_path):
    path = tmp_path / "own.yaml"
    save_config(debug_config("model.text_encoder.num_hidden_layers=4", "model.text_encoder.fusion_layer=4"), path)
    configs = {variant.name: load_config(path, variant.settings) for variant in variants_of(path)}
    assert list(configs) == ["all-losses", *(f"no-{loss}" for loss in ablations.LOSSES), "upper-half"]
    whole = configs["all-losses"].losses.weights
    for loss in ablations.LOSSES:
        assert {key for key in whole if configs[f"no-{loss}"].losses.weights[key] != whole[key]} == {loss}
    text = configs["upper-half"].model.text_encoder
    assert (text.fusion_layer, text.full_cross_attention) == (2, False)


def test_where_rewritten_captions_teach_chunks_the_published_loss_is_compared_as_well():
    configs = {each.name: load_config(each.config, each.settings) for each in variants_of(ablations.DEMO)}
    published = {name for name, config in configs.items() if not config.losses.attribute_replaced}
    assert published == {"as-published", "no-mrtd"}
    assert [name for name, config in configs.items() if not config.losses.mrtd_other_image] == ["as-published"]
    assert configs["as-published"].losses.weights == configs["all-losses"].losses.weights


def test_a_run_is_measured_on_other_people(run, tiny_benchmark, tmp_path):
    root = copy_of(tiny_benchmark, tmp_path / "others")
    outcome = ablations.measure(run, root)
    assert set(outcome.values) == set(outcome.people) == set(ablations.COLUMNS)
    assert all(0 <= value <= 100 for value in outcome.values.values())
    people = len(outcome.people["R@1"])
    assert outcome.people["chunk AUC"].shape == (people, people + 1)
    for column in ("R@1", "R@1 similarity", "mAP", "attention", "evidence", "chance"):
        assert outcome.people[column].shape == (people,)
        assert outcome.people[column].mean() == pytest.approx(outcome.values[column])


def test_test_people_are_drawn_once_and_unlike_others(tiny_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "PEOPLE", 3)
    folder = tmp_path / "drawn"
    drawn = ablations.draw_people(folder, apart_from=[tiny_benchmark])
    own, others = people_of(folder), people_of(tiny_benchmark)
    assert len(own) == 4
    assert min(own) > max(others)  # ids go on
    assert not set(own.values()) & set(others.values())
    records = (folder / "processed_data" / "test.json").read_text()
    assert records.count('"captions"') == 6
    assert (folder / "parts.json").is_file()
    monkeypatch.setattr(ablations, "prepare", None)  # would raise
    assert ablations.draw_people(folder, apart_from=[tiny_benchmark]) == drawn


def test_test_people_drawn_apart_from_others_are_not_taken(tiny_benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "PEOPLE", 3)
    with pytest.raises(UserError, match=r"none must be there.*pretrain\.sh --only-draw"):
        ablations.draw_people(tmp_path / "drawn", apart_from=[tiny_benchmark, tmp_path / "none"])
    ablations.draw_people(tmp_path / "drawn", apart_from=[])
    with pytest.raises(UserError, match="holds another SynthPedes"):
        ablations.draw_people(tmp_path / "drawn", apart_from=[tiny_benchmark])


def test_twins_are_three_encoders_with_one_loss():
    configs = {variant.name: load_config(variant.config, variant.settings) for variant in twins.VARIANTS}
    assert [config.model.image_encoder.kind for config in configs.values()] == ["vim", "mamba_reg", "vit"]
    assert len({(c.model.image_encoder.embed_dim, c.model.image_encoder.depth) for c in configs.values()}) == 1
    for config in configs.values():
        assert [key for key, weight in config.losses.weights.items() if weight] == ["itc"]
        assert config.init.paths == ("all-MiniLM-L6-v2",)


def test_a_twin_is_measured_by_similarity(run, tiny_benchmark):
    outcome = twins.measure(run, tiny_benchmark)
    assert set(outcome.values) == set(twins.COLUMNS)
    assert set(outcome.people) == {"R@1", "mAP"}
    assert not math.isnan(outcome.values["large norms"])


@pytest.mark.parametrize("kind", ["vim", "mamba_reg", "vit"])
def test_share_of_tokens_with_large_norms(kind):
    """Tokens before the final norm: nearly equal ones have no large norm; one patch made large is one of all."""
    model = tiny_model(kind).eval()
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    batches = [type("Batch", (), {"image": images})]
    assert twins.share_of_large_norms(model, batches) == 0
    norm = getattr(model.image_encoder, "norm" if kind == "vit" else "norm_f")
    embedding = model.image_encoder.pos_embed
    with torch.no_grad():
        embedding[:, -1] = 1000.0  # the last patch, in every layout
    assert twins.share_of_large_norms(model, batches) == pytest.approx(1 / model.image_encoder.num_patches)
    assert getattr(model.image_encoder, "norm" if kind == "vit" else "norm_f") is norm
    assert isinstance(model, PersonSearchModel)
    assert np.isfinite(model.encode_image(model.normalize(images))[1].detach().numpy()).all()
