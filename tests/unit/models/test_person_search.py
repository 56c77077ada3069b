"""The whole model on a real batch: gradients reach every parameter, padding and grouping change nothing."""

import math
import re

import pytest
import torch

import dataset.texts
from dataset.batches import collate_for_gpu, to_device
from dataset.texts import Texts
from losses.objective import Curriculum
from models.build import build_model, build_momentum_encoder
from models.person_search import TEMPERATURE_RANGE
from tests.helpers.gradients import draws_by_content
from tests.helpers.steps import build_learner
from training.state import build_state
from training.step import train_step

VIT = ("model.image_encoder.type=vit", "model.image_encoder.num_heads=4")
# A bias of the keys adds the same number to all of a query's scores, which the softmax takes out again.
NO_GRADIENT = re.compile(r"text_encoder\.bert\.encoder\.layer\.\d\.(cross)?attention\.self\.key\.bias")
VIT_QKV_BIAS = re.compile(r"image_encoder\.blocks\.\d\.attn\.qkv\.bias")  # the middle third is the keys'


@pytest.fixture
def model(debug_config):
    torch.manual_seed(0)
    return build_model(debug_config()).eval()


def total_loss(config, batch):
    """Model in float64 and the weighted sum of all its losses, with every objective on."""
    torch.manual_seed(0)
    learner = build_learner(config, torch.float64)
    losses = learner.losses(learner.prepare(batch))
    assert losses.keys() == {"itc", "itm", "prd", "mlm", "mrtd", "mae", "attribute"}
    return learner.model, sum(config.losses.weights[key] * loss for key, loss in losses.items())


@pytest.mark.parametrize("settings", [(), VIT, ("model.text_encoder.full_cross_attention=false",)])
def test_every_parameter_gets_a_gradient_from_the_total_loss(debug_config, batch, settings):
    model, loss = total_loss(debug_config(*settings), batch)
    loss.backward()
    largest = {name: float(p.grad.abs().max()) if p.grad is not None else 0.0 for name, p in model.named_parameters()}
    without = {name for name, size in largest.items() if size < 1e-12}
    expected = {name for name in largest if NO_GRADIENT.fullmatch(name)}
    assert expected
    assert without == expected
    for name, parameter in model.named_parameters():
        if VIT_QKV_BIAS.fullmatch(name):
            query, key, value = parameter.grad.abs().view(3, -1).amax(dim=1).tolist()
            assert key < 1e-12 < min(query, value)


def test_numbers_known_beforehand_change_no_loss_and_no_gradient(debug_config, batch, monkeypatch):
    config = debug_config("losses.cross_modal_share=0.5", "losses.mlm_probability=0.4")  # as draws_by_content has it
    with draws_by_content():  # more places draw more numbers, so that later draws would be others
        counted, counted_loss = total_loss(config, batch)
        monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())  # as on a GPU
        told, told_loss = total_loss(config, collate_for_gpu(batch, parts=1, shares=(0.5,)))
    counted_loss.backward()
    told_loss.backward()
    torch.testing.assert_close(told_loss, counted_loss, rtol=1e-12, atol=0)
    for name, parameter in told.named_parameters():
        torch.testing.assert_close(parameter.grad, counted.get_parameter(name).grad, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
def test_a_step_never_waits_for_the_gpu(debug_config, batch):
    config, device = debug_config("train.precision=bf16"), torch.device("cuda")
    model, objectives, momentum_encoder, queue = (part.to(device) for part in build_learner(config))
    state = build_state(model, momentum_encoder, queue, config, total_steps=9, filled=[])
    batch = to_device(collate_for_gpu(batch, parts=1, shares=(1.0,)), device)
    train_step(state, objectives, batch, Curriculum(0.4), config)  # compiles kernels, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = train_step(state, objectives, batch, Curriculum(0.4), config)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(losses["total"])


def test_no_gradient_reaches_the_momentum_encoders(debug_config):
    config = debug_config()
    momentum_encoder = build_momentum_encoder(build_model(config), config)
    assert not any(parameter.requires_grad for parameter in momentum_encoder.parameters())


def padded(text: Texts, places: int) -> Texts:
    return Texts(*(torch.nn.functional.pad(field, (0, places)) for field in text[:3]))


def test_padding_changes_no_embedding_and_no_score(model, batch):
    longer = padded(batch.text_1, 7)
    longer = longer._replace(input_ids=longer.input_ids.masked_fill(longer.attention_mask == 0, 9))
    with torch.no_grad():
        features, _ = model.encode_image(model.normalize(batch.image_1))
        for text in (batch.text_1, longer):
            embedding = model.encode_text(text.input_ids, text.attention_mask)[1]
            scores = model.match(text.input_ids, text.attention_mask, features.tokens)
            if text is batch.text_1:
                expected = embedding, scores
        torch.testing.assert_close((embedding, scores), expected, rtol=0, atol=1e-6)  # float32


def test_an_image_of_many_rows_is_given_once(model, batch):
    ids, mask = batch.text_1.input_ids, batch.text_1.attention_mask
    index = torch.tensor([0, 3, 3, 1, 0, 2, 1, 3])
    with torch.no_grad():
        tokens = model.encode_image(model.normalize(batch.image_1))[0].tokens
        repeated = model.match(ids, mask, tokens[index])
        torch.testing.assert_close(model.match(ids, mask, tokens, index), repeated, rtol=0, atol=1e-6)


def test_embeddings_have_length_1(model, batch):
    with torch.no_grad():
        image = model.encode_image(model.normalize(batch.image_1))[1]
        text = model.encode_text(batch.text_1.input_ids, batch.text_1.attention_mask)[1]
    torch.testing.assert_close(image.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(8))


def test_pixels_are_normalised_as_the_image_encoder_wants(debug_config):
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    for name, mean, std in (("imagenet", 0.485, 0.229), ("clip", 0.48145466, 0.26862954)):
        model = build_model(debug_config(f"model.image_encoder.normalization={name}"))
        assert float(model.normalize(pixels)[0, 0]) == pytest.approx(-mean / std, rel=1e-6)


def test_heads_of_objectives_are_left_out_of_a_model_for_search(model):
    assert model.heads == ()
    assert not {"prd_head", "mrtd_head", "decoder"} & dict(model.named_children()).keys()
    with pytest.raises(ValueError, match="built without prd_head; it has no heads"):
        model.head("prd_head")


@pytest.mark.parametrize(("value", "kept"), [(-1.0, TEMPERATURE_RANGE[0]), (0.1, 0.1), (7.0, TEMPERATURE_RANGE[1])])
def test_temperature_stays_in_its_range(model, value, kept):
    model.temperature.data.fill_(value)
    model.clamp_temperature()
    assert math.isclose(model.temperature.item(), kept, rel_tol=1e-6)
