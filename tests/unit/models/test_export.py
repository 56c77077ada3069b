"""Exported folders load by from_pretrained and give what the checkpoint gives; ONNX graphs give what PyTorch gives."""

import json

import pytest
import torch
from transformers import BertTokenizer

from models import export
from models.onnx_export import ALLOWED_DEVIATION, export_onnx
from models.pretrained_model import PretrainedPersonSearch
from models.selective_scan.directions import Direction, Scan
from models.selective_scan.reference import scan_reference
from models.weights import initialise
from tests.helpers.paths import REPOSITORY
from tests.helpers.steps import build_learner
from tests.helpers.tiny_models import published_system, tiny_model
from training.checkpoint import save_checkpoint
from utils.config import load_config
from utils.errors import UserError

VOCABULARY = REPOSITORY / "tests/parity/vectors/eval_cli/rasa_cli_a"  # a folder with a vocab.txt of 104 word pieces
TINY = [
    "dataset.image_size=[32, 16]",
    "model.image_encoder={embed_dim: 16, depth: 1, d_state: 4}",
    f"model.text_encoder={{name: {VOCABULARY}, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, "
    "intermediate_size: 24, fusion_layer: 1}",
    "model.embed_dim=8",
    "model.decoder.num_heads=2",
]


@pytest.fixture
def run(tmp_path):
    """A trained model, and its checkpoint with momentum copies and a queue beside it as a run writes them."""
    config = load_config(REPOSITORY / "configs/debug.yaml", TINY)
    torch.manual_seed(3)
    model = build_learner(config).model.eval()
    content = {"model": model.state_dict(), "momentum_encoder": model.image_encoder.state_dict(), "queue": {}}
    save_checkpoint({**content, "config": config.as_dict()}, tmp_path / "last.pth")
    return model, tmp_path / "last.pth"


def outputs(model):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (2, 3, 32, 16), generator=generator, dtype=torch.uint8)
    ids = torch.randint(104, (2, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad():
        features, image_embedding = model.encode_image(model.normalize(image))
        return image_embedding, model.encode_text(ids, mask)[1], model.match(ids, mask, features.tokens)


def test_folder_loads_by_from_pretrained(run, tmp_path):
    model, checkpoint = run
    export.main([str(checkpoint), str(tmp_path / "out")])
    loaded = PretrainedPersonSearch.from_pretrained(tmp_path / "out")
    assert not loaded.training
    for ours, theirs in zip(outputs(loaded), outputs(model), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert loaded.max_words == 48
    sizes = json.loads((tmp_path / "out" / "config.json").read_text())
    assert sizes["image_encoder"]["image_size"] == [32, 16]
    assert sizes["text_encoder"]["vocab_size"] == 104


def test_folder_holds_the_tokenizer(run, tmp_path):
    export.main([str(run[1]), str(tmp_path / "out")])
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "out")
    text = "a woman with a striped backpack"
    expected = BertTokenizer.from_pretrained(VOCABULARY)(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected


def test_folder_is_a_checkpoint_too(run, tmp_path):
    model, checkpoint = run
    export.main([str(checkpoint), str(tmp_path / "out")])
    other = build_learner(
        load_config(REPOSITORY / "configs/debug.yaml", [*TINY, "dataset.image_size=[32, 32]"])
    ).model.eval()
    report = initialise(other, tmp_path / "out")
    assert report.kind == "ours"
    assert sorted(report.resized) == ["decoder.pos_embed", "image_encoder.pos_embed"]
    assert report.new == []
    assert torch.equal(other.itm_head.weight, model.itm_head.weight)


def test_a_foreign_checkpoint_needs_a_configuration_and_leaves_out_what_it_lacks(tmp_path):
    donor = tiny_model("vit", full_cross_attention=False)
    tensors = published_system(donor, without=("decoder.",))
    torch.save({"model": tensors, "config": {"temp": 0.07}}, tmp_path / "rasa.pth")
    with pytest.raises(UserError, match=r"rasa\.pth does not say which configuration it belongs to; .*--config"):
        export.main([str(tmp_path / "rasa.pth"), str(tmp_path / "out")])
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]))
    (tmp_path / "rasa.yaml").write_text(f"""
base: {REPOSITORY / "configs/debug.yaml"}
model:
  image_encoder: {{type: vit, embed_dim: 16, depth: 2, num_heads: 2, normalization: clip}}
  text_encoder: {{name: {tmp_path}, hidden_size: 16, num_attention_heads: 2, intermediate_size: 24, vocab_size: 30,
    num_hidden_layers: 4, fusion_layer: 2, max_position_embeddings: 20, full_cross_attention: false}}
  embed_dim: 8
dataset: {{max_words: 20}}
""")
    export.main([str(tmp_path / "rasa.pth"), str(tmp_path / "out"), "--config", str(tmp_path / "rasa.yaml")])
    loaded = PretrainedPersonSearch.from_pretrained(tmp_path / "out")
    assert "decoder" not in loaded.heads
    assert torch.equal(loaded.prd_head.weight, donor.prd_head.weight)
    assert loaded.pixel_mean.flatten().tolist() == pytest.approx([0.48145466, 0.4578275, 0.40821073])


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_for_onnx(reverse):
    pytest.importorskip("onnxscript")
    from models.onnx_scan import scan_onnx

    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 9, 6) for _ in range(3))
    b, c = torch.randn(2, 1, 9, 4), torch.randn(2, 1, 9, 4)
    direction = Direction(u, delta, -torch.rand(6, 4), b, c, torch.randn(6), torch.randn(6), reverse)
    scan = Scan((direction,), z, delta_softplus=True, log_A=False, scale=1.0)
    torch.testing.assert_close(scan_onnx(scan), scan_reference(scan), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("image", ["vim", "mamba_reg", "vit"])
def test_onnx_graphs(tmp_path, image):
    """export_onnx compares at batch 1 and 3, lengths 3 and 12; here the files, their free axes and the bound."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    deviations = export_onnx(tiny_model(image, image_size=(32, 16), tasks=frozenset({"itc", "itm"})), tmp_path)
    assert deviations.keys() == {"image_encoder", "text_encoder", "reranker"}
    assert max(deviations.values()) < ALLOWED_DEVIATION
    for name, free in {"image_encoder": {"batch"}, "reranker": {"batch", "length"}}.items():
        graph = onnx.load(tmp_path / f"{name}.onnx").graph
        axes = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim if dim.dim_param}
        assert axes == free
    operators = [node.op_type for node in onnx.load(tmp_path / "image_encoder.onnx").graph.node]
    assert operators.count("Scan") == (0 if image == "vit" else 4)  # per layer and direction
