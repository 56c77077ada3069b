"""Vision Mamba with registers; its numbers are compared with the published code in tests/parity."""

import pytest
import torch
from torch import nn

from gallery.indexing.footprint import token_shape_of
from losses.mae import draw_kept_patches
from models.build import IMAGE_ENCODERS, model_sizes
from models.mae_decoder import MAEDecoder
from models.mamba_reg import MambaReg, insert_registers, take_registers
from tests.helpers.paths import CONFIGS
from tests.helpers.tiny_models import tiny_model
from utils.config import load_config
from utils.errors import UserError


def encoder_of(image_size=(32, 16), **more):
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "width": 16, "depth": 2, "d_state": 4, "registers": 3, "register_reduction": 2}
    return MambaReg(image_size=image_size, **sizes | more).eval()


@pytest.mark.parametrize(
    ("num_patches", "num_registers", "order"),
    [
        (8, 3, "0 1 R 2 3 R 4 5 R 6 7"),
        (6, 3, "0 R 1 R 2 R 3 4 5"),
        (9, 2, "0 1 2 R 3 4 5 R 6 7 8"),
        (2, 3, "R R R 0 1"),  # fewer patches than registers, as a masked pass may have
        (3, 1, "0 R 1 2"),
    ],
)
def test_order_of_the_sequence(num_patches, num_registers, order):
    patches = torch.arange(num_patches).expand(2, -1)[..., None]
    registers = torch.arange(100, 100 + num_registers).expand(2, -1)[..., None]
    tokens = insert_registers(patches, registers)
    number = iter(range(100, 200))
    expected = [next(number) if place == "R" else int(place) for place in order.split()]
    assert tokens[..., 0].tolist() == [expected] * 2
    back = take_registers(tokens, num_registers)
    assert torch.equal(back[0], registers)
    assert torch.equal(back[1], patches)


@pytest.mark.parametrize("reduction", [1, 2])
def test_shapes_of_a_rectangle(reduction):
    encoder = encoder_of(register_reduction=reduction)
    features = encoder(torch.randn(2, 3, 32, 16))
    assert (encoder.width, encoder.feature_width, encoder.num_patches) == (16, 3 * 16 // reduction, 8)
    assert features.pooled.shape == (2, encoder.feature_width)
    assert features.patches.shape == (2, 8, 16)
    assert features.tokens.shape == (2, encoder.num_tokens, 16) == (2, 11, 16)
    assert torch.equal(features.tokens[:, :3], features.registers)
    assert torch.equal(features.tokens[:, 3:], features.patches)


def test_without_a_reduction_the_feature_is_the_registers_in_their_order():
    features = encoder_of(register_reduction=1)(torch.randn(2, 3, 32, 16))
    assert torch.equal(features.pooled, features.registers.flatten(1))


def test_patches_alone_as_tokens():
    encoder = encoder_of(register_tokens=False)
    features = encoder(torch.randn(2, 3, 32, 16))
    assert torch.equal(features.tokens, features.patches)
    assert encoder.num_tokens == 8
    assert features.leading.shape == (2, 3, 16)


def test_patches_come_back_in_raster_order():
    encoder, image = encoder_of(), torch.zeros(1, 3, 32, 16)
    encoder.layers, encoder.drop_paths = nn.ModuleList(), nn.ModuleList()
    image[:, :, 16:24, 8:] = 1.0  # row 2, column 1 of a grid of 4 x 2
    changed = (encoder(image).patches - encoder(torch.zeros_like(image)).patches).abs().amax(dim=(0, 2))
    assert changed.nonzero().flatten().tolist() == [5]


def test_the_masked_pass_with_every_patch_kept_is_the_whole_pass():
    encoder, image = encoder_of(), torch.randn(2, 3, 32, 16)
    whole, masked = encoder(image), encoder.encode_masked(image, torch.arange(8).repeat(2, 1))
    for field in ("pooled", "patches", "registers"):
        torch.testing.assert_close(getattr(masked, field), getattr(whole, field), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kept", [[0, 1, 2, 5, 6, 7], [5]])
def test_the_masked_pass_keeps_the_registers_evenly_among_the_kept_patches(kept, monkeypatch):
    encoder, image = encoder_of(), torch.randn(1, 3, 32, 16)
    seen = []
    monkeypatch.setattr(encoder, "encode_tokens", lambda tokens: seen.append(tokens) or tokens)
    features = encoder.encode_masked(image, torch.tensor([kept]))
    patches, registers = encoder._embed(image)
    assert torch.equal(seen[0], insert_registers(patches[:, kept], registers))
    assert torch.equal(features.patches, patches[:, kept])
    assert torch.equal(features.registers, registers)


def test_the_registers_have_positions_of_their_own():
    encoder, image = encoder_of(), torch.randn(1, 3, 32, 16)
    encoder.layers, encoder.drop_paths = nn.ModuleList(), nn.ModuleList()
    before = encoder(image)
    with torch.no_grad():
        encoder.pos_embed_cls[0, 1] += torch.randn(16)
    after = encoder(image)
    assert torch.equal(after.patches, before.patches)
    changed = (after.registers - before.registers).abs().amax(dim=(0, 2))
    assert changed.nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("reduction", [1, 2])
def test_gradients_reach_every_parameter(reduction):
    encoder = encoder_of(register_reduction=reduction).train()
    (encoder(torch.randn(2, 3, 32, 16)).pooled * torch.randn(2, encoder.feature_width)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_decoder_sees_all_registers_at_the_class_tokens_position():
    """Without blocks nothing mixes, so the prediction of a patch has its own position, however many registers lead."""
    torch.manual_seed(0)
    decoder = MAEDecoder(num_patches=8, patch_size=8, width=16, text_width=5, depth=0, num_heads=2)
    kept = draw_kept_patches(2, 8, 0.5, generator=torch.Generator().manual_seed(0)).kept
    features = encoder_of().encode_masked(torch.randn(2, 3, 32, 16), kept)
    found = decoder(features, kept, torch.randn(2, 3, 5), torch.ones(2, 3))
    tokens = decoder.mask_token.expand(2, 8, -1).clone()
    for item, places in enumerate(kept):
        tokens[item, places] = features.patches[item]
    torch.testing.assert_close(found, decoder.prediction(tokens + decoder.pos_embed[:, 1:]))


def test_a_whole_model_rebuilds_and_matches():
    model = tiny_model("mamba_reg", image_size=(32, 16))
    image, ids = torch.randn(2, 3, 32, 16), torch.tensor([[2, 7, 9]] * 2)
    features, embedding = model.encode_image(image)
    text, _ = model.encode_text(ids, torch.ones_like(ids))
    kept = torch.tensor([[0, 2, 5]] * 2)
    rebuilt = model.reconstruct(image, kept, text.tokens, torch.ones_like(ids))
    assert (embedding.shape, rebuilt.shape) == ((2, 8), (2, 8, 192))
    (rebuilt.sum() + model.match(ids, torch.ones_like(ids), features.tokens).sum() + embedding[:, 0].sum()).backward()
    without = [name for name, each in model.image_encoder.named_parameters() if each.grad is None]
    assert without == []


def test_the_width_must_be_a_multiple_of_the_reduction():
    with pytest.raises(ValueError, match="the width 16 is not divisible by the register reduction 3"):
        encoder_of(register_reduction=3)


@pytest.mark.parametrize(
    ("name", "width", "depth", "registers", "reduction"),
    [("tiny", 192, 24, 12, 1), ("small", 384, 24, 12, 2), ("base", 768, 24, 12, 4), ("large", 1024, 48, 16, 8)],
)
def test_published_sizes(name, width, depth, registers, reduction):
    config = load_config(CONFIGS / "base.yaml", [f"model.image_encoder.name=mamba_reg_{name}"])
    sizes = model_sizes(config)["image_encoder"]
    assert (sizes["width"], sizes["depth"]) == (width, depth)
    encoder = IMAGE_ENCODERS[sizes.pop("type")](**sizes | {"depth": 1, "image_size": (32, 48)})
    assert (encoder.registers, encoder.feature_width) == (registers, registers * width // reduction)
    assert token_shape_of(config) == [registers + 14 * 14, width]


def test_an_index_stores_the_patches_alone_if_the_second_stage_sees_no_more():
    settings = ["model.image_encoder={name: mamba_reg_base, register_tokens: false}", "dataset.image_size=[64, 32]"]
    assert token_shape_of(load_config(CONFIGS / "base.yaml", settings)) == [8, 768]


def test_a_vim_of_explicit_sizes_takes_registers():
    explicit = "{name: null, type: vim, embed_dim: 192, depth: 2, registers: 4, register_reduction: 2}"
    config = load_config(CONFIGS / "base.yaml", [f"model.image_encoder={explicit}"])
    sizes = model_sizes(config)["image_encoder"]
    assert (config.model.image_encoder.kind, sizes["type"]) == ("mamba_reg", "mamba_reg")
    assert (sizes["registers"], sizes["register_reduction"], sizes["register_tokens"]) == (4, 2, True)


def test_the_reduction_has_to_divide_the_width_of_the_name():
    config = load_config(CONFIGS / "base.yaml", ["model.image_encoder={name: mamba_reg_base, register_reduction: 5}"])
    with pytest.raises(UserError, match="embed_dim 768 is not divisible by register_reduction 5"):
        model_sizes(config)
