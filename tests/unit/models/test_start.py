"""A start for other runs: half precision, without the parts that other files hold, read by init.paths."""

import json

import pytest
import torch
from safetensors.torch import load_file

from models import start
from models.weights import initialise_from
from tests.helpers.paths import REPOSITORY
from tests.helpers.steps import build_learner
from training.checkpoint import save_checkpoint
from utils.config import load_config
from utils.errors import UserError

WORDS = "text_encoder.bert.embeddings.word_embeddings"


@pytest.fixture
def run(tmp_path):
    """A model, its configuration, and its checkpoint."""
    config = load_config(REPOSITORY / "configs/debug.yaml")
    torch.manual_seed(3)
    model = build_learner(config).model
    save_checkpoint({"model": model.state_dict(), "config": config.as_dict()}, tmp_path / "best.pth")
    return model, config, tmp_path / "best.pth"


def test_a_run_starts_from_it_and_from_the_file_with_the_rest(run, tmp_path):
    model, config, checkpoint = run
    start.main([str(checkpoint), str(tmp_path / "start"), "--leave-out", WORDS])
    assert json.loads((tmp_path / "start" / "config.json").read_text()) == config.as_dict()
    stored = load_file(tmp_path / "start" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    assert not [name for name in stored if "word_embeddings" in name or name.endswith("predictions.decoder.weight")]
    torch.manual_seed(4)
    other = build_learner(config).model
    with pytest.raises(UserError, match=r"lacks 1 parameters that it should fill, .*word_embeddings"):
        initialise_from(other, [tmp_path / "start"])
    initialise_from(other, [checkpoint, tmp_path / "start"])
    for name, own in model.named_parameters():
        expected = own if name.startswith(WORDS) else own.half().float()
        torch.testing.assert_close(other.get_parameter(name), expected, rtol=0, atol=0)


def test_refusals(run, tmp_path):
    model, config, checkpoint = run
    with pytest.raises(UserError, match=r"--leave-out words: the checkpoint has no such part"):
        start.main([str(checkpoint), str(tmp_path / "start"), "--leave-out", "words"])
    with torch.no_grad():
        model.itm_head.weight[0, 0] = 1e6  # more than half precision holds
    save_checkpoint({"model": model.state_dict(), "config": config.as_dict()}, checkpoint)
    with pytest.raises(UserError, match=r"1 of the 96 weights of itm_head.weight are NaN or infinite"):
        start.main([str(checkpoint), str(tmp_path / "start")])
