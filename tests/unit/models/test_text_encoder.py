"""BERT in its two modes; its numbers are compared with the published code in tests/parity/test_bert.py."""

import pytest
import torch

import dataset.texts
from dataset.texts import Places
from models.bert_layers import BertSizes
from models.text_encoder import TextEncoder

SIZES = BertSizes(
    hidden_size=12,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=8,
    vocab_size=20,
    max_position_embeddings=6,
)


def encoder(**changes) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(SIZES, **{"image_width": 5, "fusion_layer": 2, **changes}).eval()


@pytest.mark.parametrize(("full", "layers"), [(True, [0, 1, 2, 3]), (False, [2, 3])])
def test_which_layers_look_at_the_image(full, layers):
    model = encoder(full_cross_attention=full)
    assert [n for n, layer in enumerate(model.bert.encoder.layer) if hasattr(layer, "crossattention")] == layers


def test_text_mode_uses_the_layers_below_fusion_only():
    model, ids = encoder(), torch.tensor([[2, 5, 6]])
    model(ids, torch.ones_like(ids)).tokens.sum().backward()
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("bert.encoder.layer.1.attention.") for name in used)
    assert not any(name.startswith(("bert.encoder.layer.2.", "bert.encoder.layer.3.", "cls.")) for name in used)
    assert not any("crossattention" in name for name in used)


def test_cross_modal_mode_depends_on_the_image():
    model, ids = encoder(), torch.tensor([[2, 5, 6]])
    image_1, image_2 = torch.randn(2, 1, 4, 5)
    mask = torch.ones_like(ids)
    assert not torch.allclose(model.cross_modal(ids, mask, image_1), model.cross_modal(ids, mask, image_2))


def test_the_order_of_words_matters_and_that_of_image_tokens_does_not():
    model, mask = encoder(), torch.ones(1, 3, dtype=torch.long)
    image = torch.randn(1, 4, 5)
    straight, turned = (model.cross_modal(torch.tensor([ids]), mask, image)[0, 0] for ids in ([2, 5, 6], [2, 6, 5]))
    assert not torch.allclose(straight, turned)
    again = model.cross_modal(torch.tensor([[2, 5, 6]]), mask, image.flip(1))[0, 0]
    torch.testing.assert_close(again, straight, rtol=0, atol=1e-6)


def test_word_predictions_are_made_with_the_word_embedding():
    model = encoder()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.mlm_logits(torch.randn(2, 3, 12)).shape == (2, 3, 20)


def test_errors():
    with pytest.raises(ValueError, match=r"fusion_layer 5 is not within 1\.\.4"):
        encoder(fusion_layer=5)
    with pytest.raises(ValueError, match=r"7 tokens, but the text encoder has 6 positions: lower dataset\.max_words"):
        encoder()(torch.ones(1, 7, dtype=torch.long), torch.ones(1, 7, dtype=torch.long))


MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64


def test_rows_share_images_in_turn_and_the_last_ones_choose():
    model, images = encoder().double(), torch.randn(3, 4, 5, dtype=torch.float64)
    ids = torch.randint(1, 20, (5, 3)) * MASK
    one_by_one = model.cross_modal(ids, MASK, images, torch.tensor([0, 1, 0, 1, 2]))
    torch.testing.assert_close(
        model.cross_modal(ids, MASK, images, torch.tensor([2]), own_images=2), one_by_one, **EXACT
    )


@pytest.mark.parametrize("at_most", [None, 5, 9])
def test_what_is_wanted_is_as_ever_and_the_rest_is_zero(at_most, monkeypatch):
    monkeypatch.setattr(dataset.texts, "COUNTING_IS_FREE", frozenset())  # as on a GPU
    model, images = encoder().double(), torch.randn(5, 4, 5, dtype=torch.float64)
    ids = torch.randint(1, 20, (5, 3)) * MASK
    wanted = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]])
    for run in (
        lambda **options: model.cross_modal(ids, MASK, images, **options),
        lambda **o: model(ids, MASK, **o).tokens,
    ):
        some = run(wanted=Places(wanted, at_most), at_most=None if at_most is None else at_most + 6)
        torch.testing.assert_close(some, run() * wanted[..., None], **EXACT)
