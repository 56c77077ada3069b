"""Momentum encoders: copies that follow slowly and never drop anything out."""

import pytest
import torch

from models.build import build_model
from models.momentum import COPIED, MomentumEncoder
from tests.helpers.steps import build_learner
from utils.errors import UserError

DROPOUT = (
    "model.text_encoder.hidden_dropout_prob=0.5",
    "model.text_encoder.attention_probs_dropout_prob=0.5",
    "model.image_encoder.drop_path=0.5",
)


def test_starts_equal_and_follows(debug_config):
    model = build_model(debug_config())
    copy = MomentumEncoder(model, momentum=0.75)
    for name in COPIED:
        own, online = getattr(copy, name).state_dict(), getattr(model, name).state_dict()
        assert all(torch.equal(own[key], online[key]) for key in online)
    before = copy.vision_proj.weight.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    copy.update(model)
    torch.testing.assert_close(copy.vision_proj.weight, before + 0.25)
    copy.update(model)
    torch.testing.assert_close(copy.vision_proj.weight, before + 0.25 + 0.75 * 0.25)
    moved = dict(copy.named_parameters())
    assert len(moved) == sum(name.startswith(COPIED) for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        if name in moved:
            torch.testing.assert_close(moved[name], parameter - 0.75**2)


def test_word_embedding_moves_once_though_two_modules_hold_it(debug_config):
    model = build_model(debug_config())
    copy = MomentumEncoder(model, momentum=0.5)
    with torch.no_grad():
        model.text_encoder.bert.embeddings.word_embeddings.weight.add_(1.0)
    copy.update(model)
    own = copy.text_encoder.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(own, model.text_encoder.bert.embeddings.word_embeddings.weight - 0.5)
    assert copy.text_encoder.cls.predictions.decoder.weight is own


def test_without_dropout_even_where_training_is_asked_for(debug_config):
    model = build_model(debug_config(*DROPOUT)).train()
    copy = MomentumEncoder(model, momentum=0.9).train()
    image, ids = torch.randn(32, 3, 32, 32), torch.randint(5, 20, (2, 9))  # so many that some branch is dropped
    mask = torch.ones_like(ids)
    assert not any(module.training for module in copy.modules())
    assert torch.equal(copy.encode_image(image)[1], copy.encode_image(image)[1])
    assert torch.equal(copy.encode_text(ids, mask), copy.encode_text(ids, mask))
    assert not torch.equal(model.encode_text(ids, mask)[1], model.encode_text(ids, mask)[1])
    assert not torch.equal(model.encode_image(image)[1], model.encode_image(image)[1])


def test_frozen_parts_are_neither_trained_nor_followed(debug_config):
    model = build_learner(debug_config("init.freeze=[text_encoder.bert.embeddings.word_embeddings, vision_proj]")).model
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"text_encoder.bert.embeddings.word_embeddings.weight", "vision_proj.weight", "vision_proj.bias"}
    copy = MomentumEncoder(model, momentum=0.5)
    before = copy.text_proj.weight.clone()
    with torch.no_grad():
        model.text_proj.weight.add_(1.0)
    copy.update(model)
    torch.testing.assert_close(copy.text_proj.weight, before + 0.5)
    assert torch.equal(copy.vision_proj.weight, model.vision_proj.weight)


def test_freezing_what_is_not_there(debug_config):
    with pytest.raises(UserError, match=r"init\.freeze: the model has no part 'text'"):
        build_learner(debug_config("init.freeze=[text]"))
