"""eval.py --measures grounding: pointing, chunk scores and re-ranking of a checkpoint on drawn pedestrians."""

import json
import math
from pathlib import Path

import pytest

from tests.helpers.runs import copy_of, eval_command, refused, train_and_record


@pytest.fixture(scope="module")
def run(tmp_path_factory, debug_settings) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_and_record([*debug_settings("train.epochs=1", "train.stop_after_steps=2"), "--output", str(folder)])
    return folder


def test_table_and_files(run, debug_settings, capsys):
    arguments = ["--checkpoint", str(run / "last.pth"), "--output", str(run / "out")]
    assert eval_command([*debug_settings(), *arguments, "--measures", "grounding"]) == 0
    written = capsys.readouterr().out
    found = json.loads((run / "out" / "grounding.json").read_text())
    assert set(found) == {"attention", "layer", "evidence", "chunks", "reranking", "num_captions", "bootstrap"}
    for maps in ("attention", "evidence"):
        everything = found[maps]["all"]
        assert everything["words"] == sum(own["words"] for part, own in found[maps].items() if part != "all") > 50
        assert 0 < everything["chance"]["low"] <= everything["chance"]["value"] <= everything["chance"]["high"] < 0.5
    for kind, own in found["chunks"].items():
        values = [own[name][end] for name in ("auc", "pairs", "elsewhere", "words") for end in ("low", "value", "high")]
        assert all(math.isfinite(value) and 0 <= value <= 1 for value in values), kind
    retrieval = json.loads((run / "out" / "metrics.json").read_text())
    rerank = found["reranking"]["R1"]
    assert rerank["reranked"] == pytest.approx(retrieval["R1"])
    assert rerank["similarity"] == pytest.approx(retrieval["similarity"]["R1"])
    table = (run / "out" / "grounding.md").read_text()
    for text in ("pointing: attention, layer", "pointing: evidence", "chunk scores", "re-ranking", "mINP"):
        assert text in table
        assert text in written
    assert "…" not in written  # on 80 columns


def test_data_that_were_not_drawn_are_refused_before_anything_is_scored(
    run, debug_settings, tiny_benchmark, tmp_path, capsys
):
    root = copy_of(tiny_benchmark, tmp_path / "real")
    (root / "parts.json").unlink()
    arguments = [*debug_settings(root=root), "--checkpoint", str(run / "last.pth"), "--output", str(tmp_path / "out")]
    message = refused(eval_command, [*arguments, "--measures", "grounding"], capsys)
    assert "no parts.json" in message
    assert not (tmp_path / "out").exists()


def test_no_captions_are_refused_before_anything_is_read(tmp_path, capsys):
    arguments = ["--config", str(tmp_path / "no.yaml"), "--checkpoint", "no.pth", "--grounding-captions", "0"]
    with pytest.raises(SystemExit) as stopped:
        eval_command(arguments)
    assert stopped.value.code == 2
    assert "--grounding-captions must be at least 1, not 0" in capsys.readouterr().err
