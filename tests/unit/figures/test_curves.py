"""Curves of a run: the values of its log, what is left out, and the command."""

import json

import numpy as np
import pytest
from PIL import Image

from figures.__main__ import main
from figures.curves import draw_curves
from utils.errors import UserError

LINES = [
    {"epoch": 0, "train/total": 3.0, "train/itc": 2.0, "val/R1": None},
    {"epoch": 1, "train/total": 2.0, "train/itc": None, "val/R1": 40.0, "val/mAP": 30.0},
    {"epoch": 2, "train/total": 1.0, "train/itc": 1.0, "val/R1": 35.0, "val/mAP": 50.0},
]


def test_curves_hold_the_values_of_the_log():
    total, itc, validation = draw_curves(LINES, "run").axes
    assert total.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    np.testing.assert_equal(itc.lines[0].get_ydata(), [2.0, np.nan, 1.0])
    labels = [text.get_text() for text in validation.get_legend().get_texts()]
    assert labels == ["R@1, best 40.0 in epoch 2", "mAP, best 50.0 in epoch 3"]


def test_curves_without_evaluation_have_no_retrieval_panel():
    assert len(draw_curves([{"epoch": 0, "train/total": 1.0, "train/mae": 1.0}], "run").axes) == 2


def test_curves_of_a_log_without_lines():
    with pytest.raises(UserError, match="no finished epoch"):
        draw_curves([], "run")


def test_curves_command_writes_png_and_pdf(tmp_path, capsys):
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    main(["curves", str(tmp_path)])
    assert capsys.readouterr().out.split() == [str(tmp_path / "curves.png"), str(tmp_path / "curves.pdf")]
    assert Image.open(tmp_path / "curves.png").width > 1000
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")


def test_log_that_is_not_json(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch"')
    with pytest.raises(UserError, match="not a log of this program"):
        main(["curves", str(tmp_path)])
