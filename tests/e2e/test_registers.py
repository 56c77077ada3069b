"""A Vision Mamba with registers all the way: trained, indexed and queried, exported, and its attention drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from figures.__main__ import main as figures_command
from gallery import Gallery
from gallery.indexing.commands import build_index
from gallery.indexing.request import IndexingRequest
from gallery.store.store import Store
from models import export
from models.mamba_reg import MambaReg
from models.pretrained_model import PretrainedPersonSearch
from tests.helpers.runs import train_and_record
from tests.helpers.search_runs import CPU


@pytest.mark.parametrize(("more", "num_leading"), [("register_reduction: 2", 3), ("register_tokens: false", 0)])
def test_from_training_to_search(debug_settings, tiny_benchmark, tmp_path, more, num_leading):
    settings = debug_settings(f"model.image_encoder={{registers: 3, {more}}}", "train.precision=bf16", "train.epochs=1")
    train_and_record([*settings, "--output", str(tmp_path / "run")])
    checkpoint, index = tmp_path / "run" / "best.pth", tmp_path / "index"

    build_index(IndexingRequest(images=tiny_benchmark / "imgs", checkpoint=checkpoint, index=index), CPU)
    store = Store.open(index)
    key, _ = next(iter(store.images()))
    assert store.tokens(key).shape[0] == num_leading + 16
    answer = Gallery.open(index, device="cpu").query("a man in a red coat", top=3)
    assert answer.mode == "exact"
    assert np.isfinite([hit.score for hit in answer.hits]).all()

    export.main([str(checkpoint), str(tmp_path / "shared")])
    shared = PretrainedPersonSearch.from_pretrained(tmp_path / "shared")
    assert isinstance(shared.image_encoder, MambaReg)
    trained = torch.load(checkpoint, weights_only=False)["model"]
    assert all(torch.equal(tensor, trained[name]) for name, tensor in shared.state_dict().items())

    drawn = ["--checkpoint", str(checkpoint), "--query", "1", "--out", str(tmp_path / "x")]
    figures_command(["attention", *settings, *drawn])
    assert Image.open(tmp_path / "x.png").size[0] > 500
