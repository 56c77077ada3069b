"""What a step would launch on a GPU, counted without one: the operators that it dispatches.

Depths are those of Vim-B with BERT base and the decoder (24, 12 and 4 layers), widths are tiny. Views and allocations
launch nothing. Batches come in a bucket, weights are joined, and attention runs in half precision, as on a GPU. Nothing
is dropped: on a GPU, dropout is drawn inside the operators that are counted here.
"""

import pytest
import torch

import dataset.texts
import models.attention
from bench.step_cases import made_up_batch
from dataset.batches import TrainBatch, collate_for_gpu
from dataset.texts import Texts
from losses.objective import Curriculum, ObjectiveSettings
from models.build import build_momentum_encoder, build_queue
from tests.helpers.dispatch import dispatched, signatures
from tests.helpers.paths import CONFIGS
from training.objectives import Objectives, build_objectives, build_trained_model
from training.optimizer import keep_rates_on
from training.state import build_state
from training.step import device_step
from utils.config import load_config
from utils.precision import product_dtype

MOST_OPERATORS = 3000
SETTINGS = ObjectiveSettings(
    vocab_size=200, mask_id=4, cls_id=2, mlm_probability=0.15, mrtd_mask_probability=0.3, mask_ratio=0.5, patch_size=16
)
SIZES = [
    "dataset.image_size=[64, 64]",
    "model.image_encoder={name: null, type: vim, embed_dim: 32, depth: 24}",
    "model.text_encoder.name=bert-base-uncased",
    "model.text_encoder.hidden_size=32",
    "model.text_encoder.num_attention_heads=2",
    "model.text_encoder.intermediate_size=64",
    "model.text_encoder.vocab_size=200",
    "model.text_encoder.hidden_dropout_prob=0",
    "model.text_encoder.attention_probs_dropout_prob=0",
    "model.decoder.num_heads=2",
    "model.embed_dim=16",
    "model.queue_size=64",
    "train.batch_size=4",
    "train.precision=bf16",
]


class Vocabulary:
    """As much of a tokenizer as objectives ask for."""

    mask_token_id, cls_token_id = 4, 2

    def __len__(self) -> int:
        return 200


@pytest.fixture
def step(monkeypatch):
    """Runs the device's part of a training step on a batch."""
    monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())
    monkeypatch.setattr(models.attention, "attention_dtype", product_dtype)
    config = load_config(CONFIGS / "cuhk_pedes.yaml", SIZES)
    torch.manual_seed(0)
    objectives = build_objectives(config, Vocabulary())
    model = build_trained_model(config, objectives).train()
    momentum_encoder = build_momentum_encoder(model, config)
    state = build_state(model, momentum_encoder, build_queue(config), config, total_steps=9, filled=[])
    keep_rates_on(torch.device("cpu"), state.optimizer)
    task = Objectives(model, objectives, weights=config.losses.weights)

    def run(batch: TrainBatch) -> None:
        device_step(state, task, batch, Curriculum(0.4), config)

    run(batch_of())  # allocates the optimiser's state
    return run


def batch_of(rolled: int = 0) -> TrainBatch:
    """Made-up pairs, of which images and captions are rolled to other places."""
    batch = made_up_batch(4, (64, 64), 20, SETTINGS)
    image_1, image_2 = (field.roll(rolled, 0) for field in (batch.image_1, batch.image_2))
    text_1, text_2 = (Texts(*(field.roll(rolled, 0) for field in text[:3])) for text in (batch.text_1, batch.text_2))
    own = batch._replace(image_1=image_1, image_2=image_2, text_1=text_1, text_2=text_2)
    return collate_for_gpu(own, parts=1, shares=(1.0,))


def test_a_step_is_within_its_launches(step):
    batch = batch_of()
    with dispatched() as operators:
        step(batch)
    assert operators["selective_scan"] == 3 * 24  # momentum encoder, whole pass, masked pass
    assert operators["selective_scan_backward"] == 2 * 24
    assert operators["dropout_add_layer_norm"] == 2 * (6 * 2 + 12 * 3)
    assert sum(operators.values()) <= MOST_OPERATORS


def test_two_batches_of_a_bucket_run_the_same_operators_on_the_same_shapes(step):
    """The condition for capturing one of them and replaying it for the other."""
    one, other = batch_of(rolled=1), batch_of(rolled=3)
    assert not torch.equal(one.text_2.attention_mask, other.text_2.attention_mask)
    with signatures() as of_one:
        step(one)
    with signatures() as of_other:
        step(other)
    assert len(of_one) > 1000
    for first, second in zip(of_one, of_other, strict=True):
        assert first == second
