"""Vision Mamba with registers against the published implementation: order, tokens, feature, logits, gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.mamba_reg import MambaReg, insert_registers
from tests.helpers.vectors import load_case, starting_with

CASES = ["r3_noreduce", "r4_reduce2", "r12_reduce4_odd"]
F64 = {"rtol": 1e-8, "atol": 1e-8}
F32 = {"rtol": 1e-4, "atol": 2e-5}
STORED_F32 = {"rtol": 1e-5, "atol": 1e-5}  # computed in float64, stored as float32


def build_encoder(config: dict, weights: dict[str, Tensor], dtype: torch.dtype) -> MambaReg:
    """The encoder of a case with its weights; the classification head of the checkpoint is not ours."""
    encoder = MambaReg(
        image_size=(config["img_size"],) * 2,
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        d_state=config["d_state"],
        registers=config["num_cls_tokens"],
        register_reduction=config["cls_reduce"],
    )
    encoder.load_state_dict({name: w for name, w in weights.items() if not name.startswith("head.")})
    return encoder.to(dtype).eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "prefix", "tolerance"), [(torch.float64, "f64.", F64), (torch.float32, "f32.", F32)])
@torch.no_grad()
def test_tokens_feature_and_logits(case, dtype, prefix, tolerance):
    description, tensors = load_case(f"mamba_reg/{case}")
    weights, expected = starting_with(tensors, "w."), starting_with(tensors, prefix)
    encoder = build_encoder(description["config"], weights, dtype)
    image = tensors["images"].to(dtype)
    features = encoder(image)
    assert features.registers is not None
    in_order = insert_registers(features.patches, features.registers)
    logits = F.linear(features.pooled, weights["head.weight"].to(dtype), weights["head.bias"].to(dtype))
    encoder.norm_f = nn.Identity()
    before_norm = encoder.encode_tokens(insert_registers(*encoder._embed(image)))
    torch.testing.assert_close(before_norm, expected["tokens_before_norm"], **tolerance)
    torch.testing.assert_close(in_order, expected["hidden_states"], **tolerance)
    torch.testing.assert_close(features.pooled, expected["feature"], **tolerance)
    torch.testing.assert_close(logits, expected["logits"], **tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    description, tensors = load_case(f"mamba_reg/{case}")
    encoder = build_encoder(description["config"], starting_with(tensors, "w."), torch.float64)
    image = tensors["images"].double().requires_grad_()
    (encoder(image).pooled * tensors["grad_w"].double()).sum().backward()
    gradients = {"images": image.grad, **{name: parameter.grad for name, parameter in encoder.named_parameters()}}
    expected = starting_with(tensors, "grad.")
    assert {"images", "cls_token", "pos_embed", "pos_embed_cls"} <= expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient.double(), **STORED_F32)


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_sequence(case):
    description, _ = load_case(f"mamba_reg/{case}")
    order = torch.tensor(description["token_idx"])
    num_patches = len(order) - description["config"]["num_cls_tokens"]
    token = torch.arange(len(order))[None, :, None]
    assert torch.equal(insert_registers(token[:, :num_patches], token[:, num_patches:]).flatten(), order)
