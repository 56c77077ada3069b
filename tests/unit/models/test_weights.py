"""Starting from the BERT that a package ships; other kinds of files are in test_weights_kinds.py."""

import torch
from transformers import BertModel

from models.build import build_model
from models.weights import initialise, initialise_from
from utils.pretrained import find_weights, packaged_bert

AS_SHIPPED = (
    "model.text_encoder.name=all-MiniLM-L6-v2",
    "model.text_encoder.fusion_layer=6",
    *(
        f"model.text_encoder.{key}=null"
        for key in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        )
    ),
)


def test_text_mode_with_the_shipped_weights_equals_transformers(debug_config):
    """All 6 layers as text mode, padding included; float32, atol 1e-5."""
    model = build_model(debug_config(*AS_SHIPPED)).eval()
    report = initialise(model, find_weights("all-MiniLM-L6-v2"))
    assert report.kind == "BERT"
    assert report.missing == []
    filled = set(report.loaded)
    own = [name for name, _ in model.named_parameters() if name.startswith("text_encoder.bert.")]
    assert [name for name in own if name not in filled and "crossattention" not in name] == []
    assert "image_encoder.pos_embed" not in filled
    ids = torch.tensor([[101, 1037, 2158, 1999, 1037, 3756], [101, 1037, 2450, 0, 0, 0]])
    mask = (ids > 0).long()
    reference = BertModel.from_pretrained(packaged_bert()).eval()
    with torch.no_grad():
        expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
        features = model.text_encoder(ids, mask)
    torch.testing.assert_close(features.tokens[mask == 1], expected[mask == 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected[:, 0], rtol=0, atol=1e-5)


def test_chosen_layers_of_a_deeper_bert(debug_config):
    """init.bert_layers [4, 5]: the last two of six become layers 0 and 1."""
    sizes = ("model.text_encoder.num_hidden_layers=2", "model.text_encoder.fusion_layer=2")
    model = build_model(debug_config(*(setting for setting in AS_SHIPPED if "layer" not in setting), *sizes))
    initialise_from(model, [packaged_bert()], bert_layers=[4, 5])
    reference = BertModel.from_pretrained(packaged_bert())
    for own, theirs in enumerate((4, 5)):
        torch.testing.assert_close(
            model.text_encoder.bert.encoder.layer[own].intermediate.dense.weight,
            reference.encoder.layer[theirs].intermediate.dense.weight,
            rtol=0,
            atol=0,
        )
