"""From a configuration to a model: what is trained, and sizes that cannot go together."""

import pytest
import torch

from dataset.run_loaders import train_loader_of
from dataset.tokenizer import load_tokenizer
from losses import OBJECTIVES
from models.build import build_model
from tests.helpers.steps import build_learner
from utils.distributed import start
from utils.errors import UserError

TASKS = tuple(OBJECTIVES)
VIT = ("model.image_encoder.type=vit", "model.image_encoder.num_heads=4")
UPPER_LAYERS = ("model.text_encoder.full_cross_attention=false",)
CASES = [
    *(({key}, ()) for key in TASKS),
    *(({*TASKS} - {key}, ()) for key in TASKS),
    *(({"itc", "mae"}, settings) for settings in ((), VIT, UPPER_LAYERS)),
    *(({"mlm", "mrtd"}, settings) for settings in ((), VIT, UPPER_LAYERS)),
]


@pytest.fixture(scope="module")
def tokenizer(debug_config):
    return load_tokenizer(debug_config().model.text_encoder.name)


@pytest.fixture(scope="module")
def batch(debug_config, tokenizer):
    loader = train_loader_of(debug_config("train.batch_size=4"), tokenizer, start())
    loader.sampler.set_position(0)
    return next(iter(loader.batches))


@pytest.mark.parametrize(("tasks", "changes"), CASES)
def test_what_is_trained_gets_a_gradient_and_nothing_else(debug_config, batch, tasks, changes):
    """Else DDP would wait for a gradient that never comes."""
    weights = [f"losses.weights.{key}={int(key in tasks)}" for key in TASKS]
    config = debug_config(*changes, *weights)
    learner = build_learner(config)
    model = learner.model
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.requires_grad_(True)
    losses = learner.losses(learner.prepare(batch))
    assert losses.keys() == tasks
    torch.stack(list(losses.values())).sum().backward()
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("hidden_size=50", "num_attention_heads=null"), r"hidden_size 50 is not divisible by num_attention_heads 12"),
        (
            ("num_hidden_layers=null", "fusion_layer=12", "full_cross_attention=false"),
            "fusion_layer 12 leaves none of 12 layers for cross-attention",
        ),
    ],
)
def test_sizes_of_the_named_bert_that_do_not_go_with_those_given(debug_config, settings, message):
    config = debug_config(*(f"model.text_encoder.{setting}" for setting in settings))
    with pytest.raises(UserError, match=message):
        build_model(config)


def test_width_that_does_not_go_with_the_heads_of_the_named_vit(debug_config):
    config = debug_config("model.image_encoder={name: vit_base_patch16, type: null, embed_dim: 100, num_heads: null}")
    with pytest.raises(UserError, match=r"image_encoder\.embed_dim 100 is not divisible by num_heads 12"):
        build_model(config)
