"""Text and cross-modal encoder against the published ones: MAMBA-TBPS with and without full cross-attention, RaSa."""

import pytest
import torch

from losses.mlm import mlm_loss
from models.bert_layers import BertSizes
from models.packing import Packing
from models.text_encoder import TextEncoder
from tests.helpers.vectors import load_case, starting_with

CASES = ["full_ca_false", "full_ca_true", "rasa_plain"]
F64 = {"rtol": 1e-8, "atol": 1e-8}
F32 = {"rtol": 1e-4, "atol": 2e-5}
TIED = ("cls.predictions.decoder.bias",)  # the published model holds cls.predictions.bias twice
SIZES = dict.fromkeys(BertSizes.__dataclass_fields__)


def build_text_encoder(config: dict, weights: dict, dtype: torch.dtype) -> TextEncoder:
    sizes = BertSizes(**{name: config[name] for name in SIZES if name in config})
    encoder = TextEncoder(
        sizes,
        image_width=config["encoder_width"],
        fusion_layer=config["fusion_layer"],
        full_cross_attention=config.get("full_ca", False),
    ).to(dtype)
    own = {name: w.to(dtype) for name, w in weights.items() if "position_ids" not in name and name not in TIED}
    encoder.load_state_dict(own)
    return encoder.eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "prefix", "tolerance"), [(torch.float64, "f64.", F64), (torch.float32, "f32.", F32)])
def test_hidden_states(case, dtype, prefix, tolerance):
    description, tensors = load_case(f"xbert/{case}")
    encoder = build_text_encoder(description["config"], starting_with(tensors, "w."), dtype)
    ids, mask, image = tensors["input_ids"], tensors["attention_mask"], tensors["image_embeds"].to(dtype)
    assert tensors["image_atts"].all()
    with torch.no_grad():
        text = encoder(ids, mask)
        fused = encoder.cross_modal(ids, mask, image)
        logits = encoder.mlm_logits(fused)
    words = mask.bool()  # ours computes nothing in the padding
    torch.testing.assert_close(text.tokens[words], tensors[f"{prefix}text"][words], **tolerance)
    torch.testing.assert_close(text.pooled, tensors[f"{prefix}text"][:, 0], **tolerance)
    torch.testing.assert_close(fused[words], tensors[f"{prefix}multi_modal"][words], **tolerance)
    assert not fused[~words].any()
    if not description["config"].get("full_ca", False):  # then the text layers see no image, and one pass equals two
        torch.testing.assert_close(fused[words], tensors[f"{prefix}fusion"][words], **tolerance)
    own_input = encoder.bert.embeddings(ids, Packing(mask)).detach()
    torch.testing.assert_close(own_input, tensors[f"{prefix}embeddings"][words], **tolerance)
    # the published masked-language pass is the cross-modal one
    torch.testing.assert_close(logits[words], tensors[f"{prefix}mlm_logits"][words], **tolerance)


@pytest.mark.parametrize("case", CASES)
def test_mlm_loss_with_distillation_over_the_vocabulary(case):
    description, tensors = load_case(f"xbert/{case}")
    encoder = build_text_encoder(description["config"], starting_with(tensors, "w."), torch.float64)
    hidden = encoder.cross_modal(tensors["input_ids"], tensors["attention_mask"], tensors["image_embeds"].double())
    places = tensors["labels"] != -100
    logits, labels = encoder.mlm_logits(hidden[places]), tensors["labels"][places]
    # the vectors hold the teacher's probabilities; their logarithm is a valid set of logits
    momentum_logits = tensors["soft_labels"][places].double().log()
    hard = mlm_loss(logits, labels)
    torch.testing.assert_close(hard, tensors["f64.mlm_loss_hard"], **F64)
    distilled = mlm_loss(logits, labels, momentum_logits, alpha=1.0)
    torch.testing.assert_close(distilled, tensors["f64.mlm_distill_if_softmax_over_vocab"], rtol=1e-6, atol=1e-6)
    mixed = mlm_loss(logits, labels, momentum_logits, alpha=description["alpha"])
    torch.testing.assert_close(mixed, 0.6 * hard + 0.4 * distilled, **F64)


@pytest.mark.parametrize("case", ["full_ca_false", "full_ca_true"])
def test_image_keys_and_values_shared_by_pairs(case):
    """Rows that name their image give what rows with a copy of their image give."""
    description, tensors = load_case(f"xbert/{case}")
    encoder = build_text_encoder(description["config"], starting_with(tensors, "w."), torch.float64)
    ids, mask, image = tensors["input_ids"], tensors["attention_mask"], tensors["image_embeds"].double()
    index = torch.tensor([2, 0, 2])
    shared = encoder.cross_modal(ids, mask, image, index)
    torch.testing.assert_close(shared, encoder.cross_modal(ids, mask, image[index]), **F64)
