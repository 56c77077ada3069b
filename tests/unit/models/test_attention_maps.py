"""Word attention: the model's own score, gradients by finite differences, and a patch planted for one word."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from models.attention_maps import _explicit, cross_attention, default_layer, word_attention
from models.image_features import ImageFeatures
from tests.helpers.tiny_models import tiny_model
from utils.errors import UserError

IDS = torch.tensor([2, 7, 9, 11, 13])
GRIDS = {(32, 32): (4, 4), (48, 16): (6, 2)}


def any_image(size):
    return torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(1))


def matching_logit(model, image_tokens):
    return model.match(IDS[None], torch.ones_like(IDS[None]), image_tokens)[0]


@pytest.mark.parametrize("kind", ["vit", "vim", "mamba_reg"])
@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_logit_is_the_models_and_maps_have_the_grids_shape(kind, size, layer):
    model = tiny_model(kind, image_size=size).eval()
    with torch.no_grad():
        tokens = model.encode_image(any_image(size))[0].tokens
        expected = matching_logit(model, tokens)
    attention = cross_attention(model, tokens, IDS, default_layer(model) if layer is None else layer)
    torch.testing.assert_close(attention.logit, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(attention.probabilities.sum(dim=-1), torch.ones(2, len(IDS)))
    maps = word_attention(model, any_image(size), IDS, layer)
    assert maps.shape == (len(IDS), *GRIDS[size])
    assert bool((maps >= 0).all())
    assert bool((maps.flatten(1).sum(dim=1) > 0).any())


@pytest.mark.parametrize(("kind", "num_leading"), [("vim", 1), ("mamba_reg", 3)])
def test_maps_are_the_positive_part_in_raster_order(kind, num_leading):
    model = tiny_model(kind, image_size=(48, 16)).eval()
    attention = cross_attention(model, model.encode_image(any_image((48, 16)))[0].tokens, IDS, 1)
    maps = word_attention(model, any_image((48, 16)), IDS, 1)
    for token, patch in ((1, 0), (2, 5), (4, 11)):
        column = num_leading + patch
        products = attention.probabilities[:, token, column] * attention.gradient[:, token, column]
        torch.testing.assert_close(maps[token, patch // 2, patch % 2], products.clamp(min=0).mean())


@pytest.mark.parametrize("layer", [0, 2])
def test_gradient_agrees_with_finite_differences(layer):
    """More of one head's look from one word at one patch adds that patch's value to what the head attends to."""
    model = tiny_model("vim").double().eval()
    tokens = model.encode_image(any_image((32, 32)).double())[0].tokens.detach()
    sublayer = model.text_encoder.bert.encoder.layer[layer].crossattention
    values = sublayer.self.value(tokens[0]).detach().unflatten(-1, (2, 8))  # (K, heads, D / heads)
    attention = cross_attention(model, tokens, IDS, layer)

    def logit_with(more, head, word, patch):
        change = torch.zeros(len(IDS), 2, 8, dtype=torch.float64)
        change[word, head] = more * values[patch, head]
        hook = sublayer.output.register_forward_pre_hook(lambda _, inputs: (inputs[0] + change.flatten(1), inputs[1]))
        with torch.no_grad():
            logit = matching_logit(model, tokens)
        hook.remove()
        return logit

    for place in ((0, 0, 0), (0, 2, 5), (1, 3, 16), (1, 4, 1)):
        difference = (logit_with(1e-4, *place) - logit_with(-1e-4, *place)) / 2e-4
        assert abs(difference) > 1e-9
        torch.testing.assert_close(attention.gradient[place], difference, rtol=1e-4, atol=1e-12)


class OnePatch(nn.Module):
    """An image encoder to which only one patch differs from the others, and only if the image is not black."""

    width, patch_size, num_patches, grid = 16, 8, 12, (6, 2)

    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def forward(self, image):
        patches = torch.zeros(len(image), self.num_patches, self.width)
        patches[:, self.patch, 0] = image.flatten(1).amax(dim=1)
        return ImageFeatures(torch.zeros(len(image), self.width), patches)


@pytest.mark.parametrize(("word", "patch"), [(1, 0), (3, 7), (4, 11)])
def test_word_that_looks_for_a_patch_is_mapped_onto_it(word, patch):
    """One word's query points along the patch's key, all others away from it; the patch raises the score."""
    model = tiny_model("vit", image_size=(48, 16)).eval()
    model.image_encoder = OnePatch(patch)
    attention = model.text_encoder.bert.encoder.layer[1].crossattention.self
    with torch.no_grad():
        model.text_encoder.bert.embeddings.word_embeddings.weight[:, 3] = 0
        model.text_encoder.bert.embeddings.word_embeddings.weight[IDS[word], 3] = 5
        for parameter in (*attention.query.parameters(), *attention.key.parameters(), attention.value.bias):
            parameter.zero_()
        attention.query.weight[[0, 8], 3] = 5  # the first number of both heads
        attention.query.bias[[0, 8]] = -5
        attention.key.weight[[0, 8], 0] = 5
        black, white = torch.zeros(1, 3, 48, 16), torch.ones(1, 3, 48, 16)
        with_patch, without = (matching_logit(model, model.encode_image(x)[0].tokens) for x in (white, black))
        if with_patch < without:
            model.itm_head.weight.neg_()  # the sign of a random head
    maps = word_attention(model, white, IDS, 1).flatten(1)
    assert int(maps.sum(dim=1).argmax()) == word
    assert int(maps[word].argmax()) == patch
    assert maps[word, patch] > 10 * maps[word].sum() / len(maps[word])


def test_nothing_of_the_model_changes():
    model = tiny_model("vim").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = any_image((32, 32))
    first = word_attention(model, image, IDS)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        torch.testing.assert_close(word_attention(model.eval(), image, IDS), first)
    assert not any(module._forward_pre_hooks for module in model.modules())
    layers = model.text_encoder.bert.encoder.layer
    assert not model.training
    assert not any(layer.training for layer in layers)


def test_other_threads_are_left_alone():
    """A search page explains one answer while it scores others with the same model."""
    model = tiny_model().eval()
    with torch.no_grad():
        tokens, others = (model.encode_image(any_image((32, 32)) * factor)[0].tokens for factor in (1, -2))
        expected = matching_logit(model, others)
    sublayer = model.text_encoder.bert.encoder.layer[1].crossattention
    with torch.no_grad(), _explicit(sublayer, tokens[0]) as seen, ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(pool.submit(matching_logit, model, others).result(), expected)
        assert seen == []
        matching_logit(model, tokens)
        assert len(seen) == 1


def test_default_layer_is_two_thirds_up_among_those_that_have_maps():
    assert default_layer(tiny_model()) == 2
    assert default_layer(tiny_model(full_cross_attention=False)) == 2


@pytest.mark.parametrize(("full", "layer"), [(True, 3), (True, -1), (False, 1)])
def test_layer_without_maps_of_words(full, layer):
    model = tiny_model(full_cross_attention=full)
    usable = "0, 1, 2" if full else "2"
    with pytest.raises(UserError, match=rf"layer {layer} has no attention.*those that have: {usable} "):
        word_attention(model, any_image((32, 32)), IDS, layer)


def test_model_that_attends_to_the_image_in_the_last_layer_only():
    model = tiny_model(full_cross_attention=False)
    del model.text_encoder.bert.encoder.layer[2].crossattention
    with pytest.raises(UserError, match="no attention of words to show"):
        word_attention(model, any_image((32, 32)), IDS)


@pytest.mark.parametrize("image", [torch.zeros(3, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(1, 3, 32, 32).byte()])
def test_wrong_images(image):
    with pytest.raises(ValueError, match="one normalised image"):
        word_attention(tiny_model(), image, IDS)


def test_wrong_captions():
    with pytest.raises(ValueError, match="tokens of one caption"):
        word_attention(tiny_model(), any_image((32, 32)), IDS[None])
