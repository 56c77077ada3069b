"""eval.py from the command line on a RaSa checkpoint file and a test set on disk, against RaSa's own scores.

Every size stands in a configuration file, as a user would write it. float32, atol 1e-4; measured: largest deviation
1.0e-6 of similarity, 8.8e-6 of matching scores.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import eval as evaluation
from tests.helpers.paths import CONFIGS, VECTORS
from utils.errors import UserError

CASE = VECTORS / "eval_cli" / "rasa_cli_a"
TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration file of the case beside a copy of its data; sizes from its description."""
    shutil.copytree(CASE, tmp_path / "data")
    sizes = json.loads((CASE / "case.json").read_text())
    system, bert = sizes["config"], sizes["bert_config"]
    path = tmp_path / "rasa.yaml"
    path.write_text(f"""
base: {CONFIGS / "rstp_reid_vit.yaml"}
dataset:
  root: {tmp_path / "data"}
  image_size: {system["image_res"]}
  max_words: {system["max_words"]}
  workers: 0
  cache: false
model:
  image_encoder:
    name: null
    type: vit
    embed_dim: {system["vision_width"]}
    depth: {system["vis_depth"]}
    num_heads: {system["vis_heads"]}
  text_encoder:
    name: {tmp_path / "data"}   # for its vocab.txt
    fusion_layer: {bert["fusion_layer"]}
    full_cross_attention: false
    hidden_size: {bert["hidden_size"]}
    num_hidden_layers: {bert["num_hidden_layers"]}
    num_attention_heads: {bert["num_attention_heads"]}
    intermediate_size: {bert["intermediate_size"]}
    max_position_embeddings: {bert["max_position_embeddings"]}
    vocab_size: {bert["vocab_size"]}
  embed_dim: {system["embed_dim"]}
train: {{precision: fp32}}
""")
    return path


def evaluate(config: Path, *overrides: str) -> tuple[dict, dict]:
    checkpoint, output = config.parent / "data" / "rasa_checkpoint.pth", config.parent / "out"
    evaluation.main(
        [
            *("--config", str(config), "--checkpoint", str(checkpoint), "--output", str(output)),
            *("--save-scores", "--set", *overrides),
        ]
    )
    return json.loads((output / "metrics.json").read_text()), dict(np.load(output / "scores.npz"))


def test_every_pair_re_ranked(config):
    metrics, scores = evaluate(config, "eval.rerank_top_k=16")
    expected = np.load(CASE / "expected.npz")
    np.testing.assert_allclose(scores["similarity"], expected["similarity"], **TOLERANCE)
    np.testing.assert_allclose(scores["scores"], expected["scores_full"], **TOLERANCE)
    for name in ("text_person_ids", "image_person_ids"):
        np.testing.assert_array_equal(scores[name], expected[name])
    published = json.loads((CASE / "case.json").read_text())
    for ours, theirs in (("R1", "r1"), ("R5", "r5"), ("R10", "r10"), ("mAP", "mAP")):
        assert metrics[ours] == pytest.approx(published["metrics_full"][theirs], abs=1e-4)
        assert metrics["similarity"][ours] == pytest.approx(published["metrics_similarity"][theirs], abs=1e-4)


def test_top_k_re_ranked(config):
    _, scores = evaluate(config, "eval.rerank_top_k=5")
    expected = np.load(CASE / "expected.npz")["scores_topk"]
    published = np.where(expected == -100, -np.inf, expected)
    np.testing.assert_array_equal(np.isinf(scores["scores"]), np.isinf(published))
    np.testing.assert_allclose(scores["scores"], published, **TOLERANCE)


def test_vocabulary_size_of_a_folder_with_only_a_vocabulary(config):
    text = config.read_text()
    config.write_text(text.replace("vocab_size: 104", "vocab_size: null"))
    _, scores = evaluate(config, "eval.rerank_top_k=0")
    np.testing.assert_allclose(scores["similarity"], np.load(CASE / "expected.npz")["similarity"], **TOLERANCE)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.text_encoder.full_cross_attention=true", r"\(RaSa\) fills only a part of the model: 20 parameters"),
        ("model.image_encoder.depth=2", "no place for, visual_encoder.blocks.2"),
        ("model.image_encoder.depth=4", "lacks 12 parameters that it should fill, image_encoder.blocks.3"),
        ("dataset.max_words=48 model.text_encoder.max_position_embeddings=50", "set the sizes of the configuration"),
    ],
)
def test_a_configuration_of_another_shape_is_refused(config, override, message):
    with pytest.raises(UserError, match=message):
        evaluate(config, *override.split())
