"""Vision Mamba against the published implementation: blocks, whole encoders, masked pass."""

import pytest
import torch
from torch import nn

from models.mamba_mixer import BidirectionalMambaMixer
from models.vision_mamba import VisionMamba
from tests.helpers.vectors import load_case, starting_with

F64 = {"rtol": 1e-8, "atol": 1e-8}
F32 = {"rtol": 1e-4, "atol": 2e-5}  # the vectors' own fp32 noise is 1e-6 relative to the largest value
STORED_F32 = {"rtol": 1e-5, "atol": 1e-5}  # computed in float64, stored as float32


def build_encoder(config: dict, weights: dict, dtype: torch.dtype, **changes) -> VisionMamba:
    """The encoder of a case with its weights; the classification head of the checkpoint is not ours."""
    sizes = {
        "image_size": (config["img_size"],) * 2,
        "patch_size": config["patch_size"],
        "width": config["embed_dim"],
        "depth": config["depth"],
        "d_state": config["d_state"],
        "divide_out": config["if_divide_out"],
    }
    encoder = VisionMamba(**sizes | changes).to(dtype).eval()
    encoder.load_state_dict({name: w.to(dtype) for name, w in weights.items() if not name.startswith("head.")})
    return encoder


def in_scan_order(features) -> torch.Tensor:
    """Undo the split into class token and patches: what the published encoder returns."""
    middle = features.patches.shape[1] // 2
    return torch.cat(
        [features.patches[:, :middle], features.pooled[:, None], features.patches[:, middle:]], dim=1
    ).detach()


@pytest.mark.parametrize("case", ["d20_L1_div", "d32_n8_L3_div", "d48_L17_div", "d48_L17_nodiv"])
@pytest.mark.parametrize(("dtype", "prefix", "tolerance"), [(torch.float64, "f64.", F64), (torch.float32, "f32.", F32)])
def test_mixer_and_its_gradients(case, dtype, prefix, tolerance):
    description, tensors = load_case(f"vim_block/{case}")
    config = description["config"]
    mixer = BidirectionalMambaMixer(
        config["d_model"], d_state=config["d_state"], divide_out=config["if_divide_out"]
    ).to(dtype)
    mixer.load_state_dict({name: w.to(dtype) for name, w in starting_with(tensors, "w.").items()})
    tokens = tensors["input"].to(dtype).requires_grad_()
    out = mixer(tokens)
    torch.testing.assert_close(out, tensors[f"{prefix}out"], **tolerance)
    (out * tensors["grad_w"].to(dtype)).sum().backward()
    expected = starting_with(tensors, f"{prefix}grad.")
    torch.testing.assert_close(tokens.grad, expected.pop("input"), **tolerance)
    gradients = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name], gradient, **tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", ["mid_img64", "mid_img80_odd", "mid_nodiv"])
def test_encoder_in_float64(case):
    description, tensors = load_case(f"vim_encoder/{case}")
    encoder = build_encoder(description["config"], starting_with(tensors, "w."), torch.float64)
    features = encoder(tensors["images"].double())
    torch.testing.assert_close(in_scan_order(features), tensors["f64.hidden_states"], **F64)
    torch.testing.assert_close(features.pooled.detach(), tensors["f64.feature"], **F64)


def test_encoder_in_float32():
    description, tensors = load_case("vim_encoder/mid_img64")
    encoder = build_encoder(description["config"], starting_with(tensors, "w."), torch.float32)
    torch.testing.assert_close(in_scan_order(encoder(tensors["images"])), tensors["hidden_states"], **F32)


def test_encoder_gradients():
    description, tensors = load_case("vim_encoder/mid_img64")
    encoder = build_encoder(description["config"], starting_with(tensors, "w."), torch.float64)
    features = encoder(tensors["images"].double())
    weight = tensors["grad_w"].double()
    middle = features.patches.shape[1] // 2
    patches_weight = torch.cat([weight[:, :middle], weight[:, middle + 1 :]], dim=1)
    ((features.pooled * weight[:, middle]).sum() + (features.patches * patches_weight).sum()).backward()
    expected = {k: v for k, v in starting_with(tensors, "grad.").items() if not k.startswith("head.")}
    for name, parameter in encoder.named_parameters():
        torch.testing.assert_close(parameter.grad, expected.pop(name).double(), **STORED_F32)
    assert expected == {}


def test_encoder_with_layer_norm():
    description, tensors = load_case("vim_encoder/mid_img48_layernorm")
    encoder = build_encoder(
        description["config"],
        starting_with(tensors, "w."),
        torch.float64,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-5),
    )
    features = encoder(tensors["images"].double())
    torch.testing.assert_close(in_scan_order(features), tensors["f64.hidden_states"], **F64)


def test_blocks_without_class_token():
    """A published variant pools the mean; our encoder always has a class token, its blocks need none."""
    description, tensors = load_case("vim_encoder/nocls_meanpool")
    weights = starting_with(tensors, "w.")
    pos_embed = weights.pop("pos_embed").double()  # one row per patch, none for a class token
    encoder = VisionMamba(
        image_size=(description["config"]["img_size"],) * 2,
        width=description["config"]["embed_dim"],
        depth=description["config"]["depth"],
        divide_out=description["config"]["if_divide_out"],
    ).double()
    own = {name: w.double() for name, w in weights.items() if not name.startswith("head.")}
    encoder.load_state_dict(encoder.state_dict() | own)
    hidden = encoder.encode_tokens(encoder.patch_embed(tensors["images"].double()) + pos_embed)
    torch.testing.assert_close(hidden.detach(), tensors["f64.hidden_states"], **F64)
    torch.testing.assert_close(hidden.mean(dim=1).detach(), tensors["f64.feature"], **F64)


@pytest.mark.parametrize("case", ["img64_m50", "img32_m75_single_kept"])
def test_masked_pass_after_moving_the_position_rows(case):
    """The seed system adds row 0 to the class token and rows 1.. to the patches; ours follows Vim (row = position).

    With its rows moved to where Vim has them, the full pass agrees, and the masked pass gives what the seed computes on
    the kept patches and throws away.
    """
    description, tensors = load_case(f"tbps_vim/{case}")
    weights = starting_with(tensors, "w.")
    rows = weights["pos_embed"]
    middle = (rows.shape[1] - 1) // 2
    weights["pos_embed"] = torch.cat([rows[:, 1 : middle + 1], rows[:, :1], rows[:, middle + 1 :]], dim=1)
    encoder = build_encoder(description["config"], weights, torch.float32)
    torch.testing.assert_close(in_scan_order(encoder(tensors["images"])), tensors["hidden_states"], **F32)

    # the seed keeps the patches in the order of their noise, which scrambles the scan; ours keeps them in raster order
    kept = tensors["noise"].argsort(dim=1)[:, : int((1 - tensors["mae_mask"]).sum(dim=1)[0])]
    assert torch.equal(kept.sort(dim=1).values.flatten(), (tensors["mae_mask"] == 0).nonzero()[:, 1])
    if kept.shape[1] == 1:  # then the seed gives the class token no position row; Vim's convention always does
        encoder.cls_token.data -= encoder.pos_embed[:, middle]
    features = encoder.encode_masked(tensors["images"], kept)
    torch.testing.assert_close(in_scan_order(features), tensors["mae_encoded_unused"], **F32)
