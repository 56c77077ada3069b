"""Losses by step: the values that a run wrote, and the level of chance."""

import math

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from figures.__main__ import main
from figures.steps import draw_steps, read_steps, smoothed
from utils.errors import UserError


@pytest.fixture
def run(tmp_path):
    with SummaryWriter(str(tmp_path / "run" / "tensorboard")) as writer:
        for step, loss in ((20, 0.75), (40, 0.5), (40, 0.5), (60, 0.25)):  # a resumed run repeats a step
            writer.add_scalar("train/itm", loss, step)
            writer.add_scalar("lr", 1.0, step)
    return tmp_path / "run"


def test_a_panel_shows_single_values_and_their_mean(run):
    curves = read_steps(run)
    assert curves.keys() == {"itm"}
    itm, attribute, mlm, itc = draw_steps({"run": curves}).axes
    raw, mean, chance = itm.lines
    assert raw.get_xydata().tolist() == [[20, 0.75], [40, 0.5], [60, 0.25]]
    assert mean.get_ydata().tolist() == [0.5, 0.5, 0.5]
    (entropy,) = set(chance.get_ydata())
    assert entropy == pytest.approx(-math.log(1 / 3) / 3 - 2 * math.log(2 / 3) / 3)
    assert not [*attribute.lines, *mlm.lines, *itc.lines]


def test_legend_names_a_run_that_lacks_some_losses(run):
    curves = read_steps(run)
    figure = draw_steps({"words": {"mlm": curves["itm"]}, "no loss of these": {}, "all": curves})
    (legend,) = figure.legends
    lines = [figure.axes[2].lines[1], figure.axes[0].lines[1]]
    assert [text.get_text() for text in legend.get_texts()] == ["words", "all"]
    assert [line.get_color() for line in legend.get_lines()] == [line.get_color() for line in lines]


def test_means_at_the_ends_are_of_fewer_values():
    np.testing.assert_allclose(smoothed(np.arange(10.0)), [2, 2.5, 3, 3.5, 4, 5, 5.5, 6, 6.5, 7])


def test_command(run, tmp_path, capsys):
    main(["steps", str(run), str(run), "--names", "one", "two", "--out", str(tmp_path / "both")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "both.png"), str(tmp_path / "both.pdf")]
    with pytest.raises(UserError, match="holds no losses by step"):
        main(["steps", str(tmp_path)])
    with pytest.raises(UserError, match="as many --names"):
        main(["steps", str(run), "--names", "a", "b"])
