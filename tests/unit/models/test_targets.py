"""What a step prepares: draws and momentum targets, and nothing for tasks that are off."""

import pytest
import torch

from dataset.run_loaders import train_loader_of
from dataset.tokenizer import load_tokenizer
from models.build import build_model, build_momentum_encoder, build_queue, step_settings
from models.targets import prepare_step
from train import compute_losses
from utils.distributed import start

MASK = 4  # [MASK] of the tiny vocabulary


@pytest.fixture
def prepared(debug_config):
    """Batch, inputs and targets with the given tasks on, after torch.manual_seed(0)."""

    def prepare(*tasks: str):
        config = debug_config()
        tokenizer = load_tokenizer(config.model.text_encoder.name)
        loader = train_loader_of(config, tokenizer, start())
        loader.sampler.set_position(0)
        batch = next(iter(loader.batches))
        torch.manual_seed(0)
        model = build_model(config)
        settings = step_settings(config, tokenizer)._replace(tasks=frozenset(tasks))
        images = model.normalize(batch.image_1), model.normalize(batch.image_2)
        return batch, *prepare_step(*images, batch, build_momentum_encoder(model, config), settings)

    return prepare


def test_masked_words_and_their_soft_targets(prepared):
    batch, inputs, targets = prepared("mlm")
    where = tuple(inputs.mlm_places.T)
    own = batch.text_1.input_ids
    assert torch.equal(targets.mlm_labels, own[where])
    assert targets.mlm_logits.shape == (len(inputs.mlm_places), len(targets.mlm_logits[0]))
    changed = (inputs.mlm_ids != own).nonzero().tolist()
    assert changed
    assert all(place in inputs.mlm_places.tolist() for place in changed)
    assert (inputs.mlm_ids[where] == MASK).any()
    assert (where[1] > 0).all()  # never [CLS]
    assert targets.mrtd_labels is None
    assert inputs.mrtd_ids is None
    assert inputs.kept_patches is None


def test_rewritten_captions_and_their_labels(prepared):
    batch, inputs, targets = prepared("mrtd")
    own, inside = batch.text_1.input_ids, batch.text_1.attention_mask == 1
    labelled = targets.mrtd_labels != -100
    inside[:, 0] = False  # [CLS]
    assert torch.equal(labelled, inside)
    assert torch.equal(targets.mrtd_labels[inside] == 1, (inputs.mrtd_ids != own)[inside])
    assert torch.equal(inputs.mrtd_ids[~inside], own[~inside])
    assert inputs.mlm_ids is None


def test_both_word_tasks_together_keep_their_own_targets(prepared):
    _, inputs, targets = prepared("mlm", "mrtd")
    assert len(targets.mlm_logits) == len(inputs.mlm_places)
    assert inputs.mrtd_ids.shape == inputs.mlm_ids.shape


def test_hidden_patches(prepared):
    _, inputs, targets = prepared("mae")
    assert inputs.kept_patches.shape == (8, 8)  # half of 16
    assert not targets.masked_patches.gather(1, inputs.kept_patches).any()
    assert (targets.masked_patches.sum(dim=1) == 8).all()


def test_nothing_carries_a_gradient(prepared):
    _, inputs, targets = prepared("itc", "mlm", "mrtd", "mae")
    tensors = [field for field in (*inputs, *targets) if field is not None]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_only_a_share_of_the_batch_goes_through_the_cross_modal_encoder(debug_config):
    """A quarter of 8 pairs for every loss but itc, which keeps all; negatives come from the whole batch."""
    config = debug_config("losses.cross_modal_share=0.25")
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    loader = train_loader_of(config, tokenizer, start())
    loader.sampler.set_position(0)
    batch = next(iter(loader.batches))
    model, settings = build_model(config), step_settings(config, tokenizer)
    images = model.normalize(batch.image_1), model.normalize(batch.image_2)
    inputs, targets = prepare_step(*images, batch, build_momentum_encoder(model, config), settings)
    output = model(inputs)
    assert len(output.image_embedding) == len(output.text_embedding) == len(targets.momentum_image) == 8
    assert len(inputs.mlm_ids) == len(inputs.mrtd_ids) == len(targets.mrtd_labels) == len(inputs.kept_patches) == 2
    assert output.match_logits.shape == (6, 2)
    assert len(output.replaced_logits) == len(output.mrtd_logits) == len(output.reconstruction) == 2
    assert len(output.chunk_present) == 6
    losses = compute_losses(
        output, inputs, targets, batch, build_queue(config), model.temperature, config.losses.alpha, settings
    )
    assert losses.keys() == settings.tasks
    assert all(torch.isfinite(loss) for loss in losses.values())
