"""From a configuration to a model: what is trained, and sizes that cannot go together."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dataset.run_loaders import train_loader_of
from dataset.tokenizer import load_tokenizer
from losses import OBJECTIVES
from losses.objective import Step
from models.build import build_model
from tests.helpers.steps import build_learner
from training.passes import run_passes
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


def test_attribute_may_score_the_chunks_of_rewritten_captions(debug_config, batch):
    """Beside the published loss, and as the loss of those captions whose chunks are labelled one by one."""
    learner = build_learner(debug_config("losses.attribute_replaced=true"))
    learner.model.eval()
    lesson = learner.prepare(batch)
    own = {each.key: each for each in learner.objectives.objectives}
    passes = run_passes(learner.model, lesson, list(own.values()))
    step = Step(learner.model, lesson, passes, lesson.momentum, learner.queue, alpha=0.4)
    with_rewritten = own["attribute"].loss(step, None)
    own["attribute"].settings = own["attribute"].settings._replace(attribute_replaced=False)
    published = own["attribute"].loss(step, None)
    chunk_ids, replaced = batch.text_1.attribute_ids, lesson.prepared["mrtd"].labels == 1
    per_caption = []
    for row in range(len(chunk_ids)):
        costs = []
        for chunk in range(1, int(chunk_ids[row].max()) + 1):
            words = chunk_ids[row] == chunk
            logits = learner.model.itm_head(passes.own_hidden["mrtd"][row, words].mean(dim=0))
            costs.append(F.cross_entropy(logits, (~replaced[row, words].any()).long()))
        per_caption += [torch.stack(costs).mean()] if costs else []
    rewritten = torch.stack(per_caption).mean()
    torch.testing.assert_close(with_rewritten - published, rewritten)

    config = debug_config("losses.attribute_replaced=only", "losses.weights={attribute: 1, mrtd: 1}")
    (attribute,) = (each for each in build_learner(config).objectives.objectives if each.key == "attribute")
    without_pairs = run_passes(learner.model, lesson, [own["mrtd"], attribute])
    assert without_pairs.pair_hidden is None
    torch.testing.assert_close(attribute.loss(replace(step, passes=without_pairs), None), rewritten)


def test_rewritten_captions_need_the_loss_that_rewrites_them(debug_config):
    with pytest.raises(UserError, match="attribute_replaced needs the captions that mrtd rewrites"):
        debug_config("losses.attribute_replaced=true", "losses.weights.mrtd=0")
