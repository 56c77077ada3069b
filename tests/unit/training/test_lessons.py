"""What is known before the online passes: draws and momentum targets, and nothing for objectives that are off."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from losses import OBJECTIVES
from tests.helpers.steps import build_learner
from training.lessons import _answers
from training.passes import run_passes

MASK = 4  # [MASK] of the tiny vocabulary


@pytest.fixture
def prepared(debug_config, batch):
    """Batch and lesson with the given objectives on, after torch.manual_seed(0)."""

    def prepare(*keys: str):
        torch.manual_seed(0)
        learner = build_learner(debug_config(*(f"losses.weights.{key}={int(key in keys)}" for key in OBJECTIVES)))
        return batch, learner.prepare(batch)

    return prepare


def test_masked_words_and_their_soft_targets(prepared):
    batch, lesson = prepared("mlm")
    words = lesson.prepared["mlm"]
    where = tuple(words.places.T)
    own = batch.text_1.input_ids
    assert torch.equal(words.labels, own[where])
    assert words.momentum_logits.shape == (len(words.places), len(words.momentum_logits[0]))
    changed = (words.input_ids != own).nonzero().tolist()
    assert changed
    assert all(place in words.places.tolist() for place in changed)
    assert (words.input_ids[where] == MASK).any()
    assert (where[1] > 0).all()  # never [CLS]
    assert lesson.prepared.keys() == {"mlm"}


def test_rewritten_captions_and_their_labels(prepared):
    batch, lesson = prepared("mrtd")
    replaced = lesson.prepared["mrtd"]
    own, inside = batch.text_1.input_ids, batch.text_1.attention_mask == 1
    labelled = replaced.labels != -100
    inside[:, 0] = False  # [CLS]
    assert torch.equal(labelled, inside)
    assert torch.equal(replaced.labels[inside] == 1, (replaced.input_ids != own)[inside])
    assert torch.equal(replaced.input_ids[~inside], own[~inside])
    assert lesson.prepared.keys() == {"mrtd"}


def test_both_word_objectives_together_keep_their_own_targets(prepared):
    _, lesson = prepared("mlm", "mrtd")
    words, replaced = lesson.prepared["mlm"], lesson.prepared["mrtd"]
    assert len(words.momentum_logits) == len(words.places)
    assert replaced.input_ids.shape == words.input_ids.shape


def test_hidden_patches(prepared):
    _, lesson = prepared("mae")
    kept, masked = lesson.prepared["mae"]
    assert kept.shape == (8, 8)  # half of 16
    assert not masked.gather(1, kept).any()
    assert (masked.sum(dim=1) == 8).all()


def test_nothing_carries_a_gradient(prepared):
    _, lesson = prepared("itc", "mlm", "mrtd", "mae")
    fields = [lesson.image, *lesson.momentum]
    fields += [field for record in lesson.prepared.values() if record is not None for field in record]
    tensors = [field for field in fields if isinstance(field, Tensor)]
    assert len(tensors) == 1 + 3 + 4 + 2 + 2
    assert not any(tensor.requires_grad for tensor in tensors)


def test_only_a_share_of_the_batch_goes_through_the_cross_modal_encoder(debug_config, batch):
    """A quarter of 8 pairs for every objective but itc, which keeps all; negatives come from the whole batch."""
    learner = build_learner(debug_config("losses.cross_modal_share=0.25"))
    lesson = learner.prepare(batch)
    passes = run_passes(learner.model, lesson, learner.objectives.objectives)
    assert len(passes.image_embedding) == len(passes.text_embedding) == len(lesson.momentum.image) == 8
    words, replaced, patches = (lesson.prepared[key] for key in ("mlm", "mrtd", "mae"))
    assert len(words.input_ids) == len(replaced.input_ids) == len(replaced.labels) == len(patches.kept) == 2
    assert passes.pair_class.shape == (6, 48)
    assert len(passes.own_hidden["mlm"]) == len(passes.own_hidden["mrtd"]) == len(passes.text_tokens) == 2
    assert len(passes.pair_chunks) == len(passes.pair_hidden) == 6
    losses = learner.losses(lesson)
    assert losses.keys() == OBJECTIVES.keys()
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_mlm_may_see_another_share_of_the_batch(debug_config, batch):
    """All 8 pairs for mlm, 2 for the other objectives. Its rows give what they give where they alone are passed."""
    learner = build_learner(debug_config("losses.cross_modal_share=0.25", "losses.mlm_share=1"))
    learner.model.eval()
    objectives = learner.objectives.objectives
    lesson = learner.prepare(batch)
    passes = run_passes(learner.model, lesson, objectives)
    assert len(lesson.prepared["mlm"].input_ids) == 8
    assert len(lesson.prepared["mrtd"].input_ids) == 2
    assert passes.pair_class.shape == (6, 48)
    assert {key: len(rows) for key, rows in passes.own_hidden.items()} == {"mlm": 8, "mrtd": 2}
    for key, pairs in (("mlm", batch), ("mrtd", batch.first(2))):
        alone = [objective for objective in objectives if objective.key == key]
        own = run_passes(learner.model, replace(lesson, pairs=pairs), alone).own_hidden[key]
        torch.testing.assert_close(own, passes.own_hidden[key])


def test_words_of_attribute_chunks_have_a_probability_of_their_own(debug_config, batch):
    learner = build_learner(debug_config("losses.mlm_attribute_probability=1", "losses.mlm_probability=1e-9"))
    words = learner.prepare(batch).prepared["mlm"]
    in_chunks = batch.text_1.attribute_ids > 0
    assert in_chunks.any()
    assert words.places.tolist() == in_chunks.nonzero().tolist()


def test_captions_may_be_rewritten_for_the_image_of_another_pair(debug_config, batch):
    """The momentum encoder's answers for mrtd are those beside the next image; those for mlm stay as they are."""
    learner = build_learner(debug_config("losses.mrtd_other_image=true"))
    momentum, text = learner.momentum_encoder, batch.text_1
    own = {each.key: each for each in learner.objectives.objectives}
    questions = {"mrtd": own["mrtd"].ask(batch), "mlm": own["mlm"].ask(batch)}
    image_tokens = momentum.encode_image(learner.model.normalize(batch.image_2))[0].tokens
    answers = _answers(questions, batch, image_tokens, momentum)
    for key, image in (("mlm", image_tokens), ("mrtd", image_tokens.roll(-1, dims=0))):
        ids, places = questions[key].input_ids, questions[key].places
        (alone,) = momentum.predict_tokens([ids], text.attention_mask, image, [places])
        torch.testing.assert_close(answers[key], alone)
        (other,) = momentum.predict_tokens([ids], text.attention_mask, image.roll(1, dims=0), [places])
        assert not torch.allclose(other, alone)
