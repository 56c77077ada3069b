"""Both image encoders behind one interface; their numbers are compared with the published code in tests/parity."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from models.vision_mamba import VisionMamba
from models.vision_transformer import VisionTransformer


def vim(image_size=(32, 16), **more):
    return VisionMamba(image_size=image_size, patch_size=8, width=16, depth=3, d_state=4, **more)


def vit(image_size=(32, 16), **more):
    return VisionTransformer(image_size=image_size, patch_size=8, width=16, depth=3, num_heads=2, **more)


def take_layers_out(encoder) -> None:
    for name in {"layers", "drop_paths", "blocks"} & dict(encoder.named_children()).keys():
        setattr(encoder, name, nn.ModuleList())


@pytest.fixture(params=[vim, vit], ids=["vim", "vit"])
def build(request):
    torch.manual_seed(0)
    return request.param


def test_shapes_of_a_rectangle(build):
    encoder = build().eval()
    features = encoder(torch.randn(2, 3, 32, 16))
    assert (encoder.width, encoder.patch_size, encoder.num_patches) == (16, 8, 8)
    assert features.pooled.shape == (2, 16)
    assert features.patches.shape == (2, 8, 16)
    assert torch.equal(features.tokens[:, 0], features.pooled)
    assert torch.equal(features.tokens[:, 1:], features.patches)


def test_the_masked_pass_with_every_patch_kept_is_the_whole_pass(build):
    encoder, image = build().eval(), torch.randn(2, 3, 32, 16)
    kept = torch.arange(8).repeat(2, 1)
    whole, masked = encoder(image), encoder.encode_masked(image, kept)
    torch.testing.assert_close(masked.pooled, whole.pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(masked.patches, whole.patches, rtol=0, atol=1e-6)


def test_the_masked_pass_does_not_see_hidden_patches(build):
    encoder, image = build().eval(), torch.randn(1, 3, 32, 16)
    kept = torch.tensor([[1, 2, 6]])
    hidden_changed = image.clone()
    hidden_changed[:, :, :8, :8] += 1.0  # patch 0
    kept_changed = image.clone()
    kept_changed[:, :, :8, 8:] += 1.0  # patch 1
    before = encoder.encode_masked(image, kept)
    assert before.patches.shape == (1, 3, 16)
    assert torch.equal(encoder.encode_masked(hidden_changed, kept).pooled, before.pooled)
    assert not torch.allclose(encoder.encode_masked(kept_changed, kept).pooled, before.pooled)


def test_a_single_kept_patch(build):
    encoder = build().eval()
    features = encoder.encode_masked(torch.randn(1, 3, 32, 16), torch.tensor([[5]]))
    assert features.tokens.shape == (1, 2, 16)


def test_patches_come_back_in_raster_order(build):
    """What belongs to a patch's pixels follows it: with the layers taken out, each token is its own patch's."""
    encoder, image = build().eval(), torch.zeros(1, 3, 32, 16)
    take_layers_out(encoder)
    image[:, :, 16:24, 8:] = 1.0  # row 2, column 1 of a grid of 4 x 2
    changed = (encoder(image).patches - encoder(torch.zeros_like(image)).patches).abs().amax(dim=(0, 2))
    assert changed.nonzero().flatten().tolist() == [5]


def test_drop_path_rises_linearly_from_0(build):
    encoder = build(drop_path=0.2)
    rates = [m.drop_prob for m in encoder.modules() if isinstance(m, DropPath)]
    distinct = sorted({round(float(rate), 6) for rate in rates} | {0.0})  # timm leaves out those of rate 0
    assert distinct == [0.0, 0.1, 0.2]


def test_wrong_sizes_are_errors(build):
    with pytest.raises(ValueError, match=r"expected images \(B, 3, 32, 16\), got \(1, 3, 16, 32\)"):
        build()(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ValueError, match=r"expected images"):
        build().encode_masked(torch.zeros(1, 1, 32, 16), torch.tensor([[0]]))


def test_vim_sizes_must_be_multiples_of_the_patch():
    with pytest.raises(ValueError, match="is not a multiple of the patch size 8"):
        vim(image_size=(32, 20))


def test_the_class_token_of_a_vim_sits_in_the_middle_with_its_own_position():
    encoder = vim().eval()
    with torch.no_grad():
        encoder.pos_embed[0, 4] += 1.0  # of 8 patches, M // 2
    take_layers_out(encoder)
    image = torch.randn(1, 3, 32, 16)
    own = encoder(image)
    with torch.no_grad():
        encoder.pos_embed[0, 4] -= 1.0
    before = encoder(image)
    assert torch.equal(own.patches, before.patches)
    assert not torch.allclose(own.pooled, before.pooled)


def test_the_two_directions_of_a_vim_are_halved():
    """divide_out: the same weights give half the branch."""
    torch.manual_seed(0)
    halved = vim(divide_out=True).layers[0].mixer
    summed = vim(divide_out=False).layers[0].mixer
    summed.load_state_dict(halved.state_dict())
    tokens = torch.randn(2, 5, 16)
    torch.testing.assert_close(2 * halved(tokens), summed(tokens), rtol=1e-5, atol=1e-6)


def test_drop_path_scales_the_branch_of_every_layer_by_item(monkeypatch):
    torch.manual_seed(0)
    encoder, tokens = vim(), torch.randn(2, 5, 16)
    scales = torch.tensor([[1.0, 1.0], [0.0, 1.25], [2.0, 0.0]])
    monkeypatch.setattr(encoder, "_row_scales", lambda residual: scales.unbind())
    residual = tokens
    for layer, scale in zip(encoder.layers, scales, strict=True):
        residual = residual + scale[:, None, None] * layer.mixer(layer.norm(residual))
    torch.testing.assert_close(encoder.encode_tokens(tokens), encoder.norm_f(residual), rtol=1e-5, atol=1e-6)


def test_drop_path_drops_items_in_training_alone_and_keeps_the_mean():
    torch.manual_seed(0)
    encoder, residual = vim(drop_path=0.2), torch.zeros(4000, 1, 16)
    drawn = torch.stack(list(encoder._row_scales(residual)))
    for scales, keep in zip(drawn, (1.0, 0.9, 0.8), strict=True):
        assert set(scales.tolist()) <= {0.0, torch.tensor(1 / keep).item()}
        assert scales.count_nonzero() / 4000 == pytest.approx(keep, abs=0.03)
    assert not torch.equal(drawn[1] > 0, drawn[2] > 0)
    assert list(encoder.eval()._row_scales(residual)) == [None] * 3
    assert list(vim()._row_scales(residual)) == [None] * 3
