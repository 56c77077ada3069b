"""The grid of several models: which captions a rule chooses, what is drawn, and the command from both sources."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from evaluation.score_file import read_scores
from figures.__main__ import main
from figures.grid import Ranked, choose
from figures.retrievals import Retrieval, draw_grid
from figures.style import GREEN
from tests.helpers.saved_models import save_random_model
from utils.errors import UserError


def ranked(config, name, best, people=(1, 1, 2, 3, 9)):
    """Captions of `people`, images of people 1, 2, 3; best[t]: place of caption t's right image, from 0."""
    images = np.array([1, 2, 3])
    similarity = np.empty((len(people), 3), dtype=np.float32)
    for row, (person, place) in enumerate(zip(people, best, strict=True)):
        order = [*np.flatnonzero(images != person)]
        order[place:place] = np.flatnonzero(images == person)
        similarity[row, order] = (0.9, 0.5, 0.1)
    scores = np.full_like(similarity, -np.inf)
    arrays = {
        "similarity": similarity,
        "scores": scores,
        "text_person_ids": np.array(people),
        "image_person_ids": images,
        "image_paths": np.array(["a", "b", "c"]),
    }
    return Ranked(name, None, config, arrays)


def test_rules_choose_by_average_precision(debug_config):
    """Average precision 1, 1/2, 1/3 at places 0, 1, 2; nobody in the gallery fits the last caption."""
    first = ranked(debug_config(), "A", (1, 2, 0, 1, 0))
    last = ranked(debug_config(), "B", (0, 0, 2, 1, 0))
    assert choose("gain", [first, last], 9, seed=0) == [1]  # of the captions of person 1, the one of the larger gain
    assert choose("loss", [first, last], 9, seed=0) == [2]
    assert choose("loss", [last, first], 9, seed=0) == [1]
    assert set(choose("random", [first, last], 9, seed=0)) in ({0, 2, 3}, {1, 2, 3})


def test_largest_change_comes_first(debug_config):
    first, last = (ranked(debug_config(), name, best, (1, 2, 3)) for name, best in (("A", (1, 2, 2)), ("B", (0, 0, 1))))
    assert choose("gain", [first, last], 3, seed=0) == [1, 0, 2]
    assert choose("gain", [first, last], 1, seed=0) == [1]


def test_rules_without_an_answer(debug_config):
    model = ranked(debug_config(), "A", (0, 0, 0, 0, 0))
    with pytest.raises(UserError, match="--rule gain compares two models"):
        choose("gain", [model], 1, seed=0)
    with pytest.raises(UserError, match="--rule loss: A has no loss against A"):
        choose("loss", [model, model], 1, seed=0)


def test_rows_names_and_frames(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 50), "blue").save(path)
    above = Retrieval("a man", [path] * 2, [False, True], 2, 1, 9)
    below = Retrieval("a man", [path] * 2, [True, False], 1, 1, 9)
    (axes,) = draw_grid([[above, below]] * 2, ["ViT", "Vim"], "title").axes
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    green = [to_hex(frame.get_edgecolor()).upper() == GREEN for frame in frames]
    assert green == [False, True, True, False] * 2
    assert frames[1].get_linewidth() > 2 * frames[0].get_linewidth()
    assert frames[0].get_y() == frames[1].get_y() < frames[2].get_y() == frames[3].get_y() < frames[4].get_y()
    assert frames[0].get_x() == frames[2].get_x() == frames[4].get_x()
    words = [text.get_text() for text in axes.texts]
    assert [word for word in words if word in ("ViT", "Vim")] == ["ViT", "Vim"] * 2
    assert words.count("a man") == 2
    note = "first right image: rank 2 (ViT),\n1 (Vim) of 9\nright images in the gallery: 1"
    assert words.count(note) == 2
    for text in axes.texts:
        extent, page = text.get_window_extent(), axes.figure.bbox
        assert extent.x0 >= 0, text
        assert extent.x1 <= page.x1, text


def write_scores(folder, scores, split="test"):
    folder.mkdir()
    np.savez(folder / "scores.npz", **scores)
    (folder / "metrics.json").write_text(json.dumps({"split": split}))


@pytest.fixture
def evaluated(debug_settings, tiny_benchmark, tmp_path):
    """Folders a (every right image last), b (first) and the arguments for the configuration."""
    records = json.loads((tiny_benchmark / "processed_data" / "test.json").read_text())
    images = np.array([record["id"] for record in records])
    texts = np.repeat(images, [len(record["captions"]) for record in records])
    right = (texts[:, None] == images).astype(np.float32)
    common = {
        "text_person_ids": texts,
        "image_person_ids": images,
        "image_paths": np.array([record["file_path"] for record in records]),
        "scores": np.full(right.shape, -np.inf, dtype=np.float32),
    }
    write_scores(tmp_path / "a", {**common, "similarity": -right})
    write_scores(tmp_path / "b", {**common, "similarity": right})
    return tmp_path, debug_settings()


def test_command_from_scores(evaluated, capsys):
    folder, settings = evaluated
    sources = ["--scores", str(folder / "a"), "--scores", str(folder / "b")]
    main(["grid", *sources, *settings, "--rule", "gain", "--num-queries", "2", "--num-images", "3"])
    assert capsys.readouterr().out.split() == [str(folder / "b" / "grid.png"), str(folder / "b" / "grid.pdf")]
    assert Image.open(folder / "b" / "grid.png").size[0] > 500
    with pytest.raises(UserError, match="a has no gain against b"):
        main(["grid", *sources[2:], *sources[:2], *settings, "--rule", "gain"])
    with pytest.raises(UserError, match="no caption 999"):
        main(["grid", *sources, *settings, "--queries", "999"])
    with pytest.raises(UserError, match="1 --names for 2 models"):
        main(["grid", *sources, *settings, "--names", "one"])
    with pytest.raises(UserError, match="2 --config for 1 models"):
        main(["grid", *sources[:2], *settings, *settings[:2]])


def test_as_many_captions_as_fit_a_page(evaluated, monkeypatch):
    """Without --num-queries: six of one model, four where each has several rows."""
    folder, settings = evaluated
    asked = []
    monkeypatch.setattr("figures.grid.choose", lambda _rule, _ranked, number, _seed: asked.append(number) or [0])
    a, b = (["--scores", str(folder / name)] for name in "ab")
    main(["grid", *a, *settings])
    main(["grid", *a, *b, *settings])
    main(["grid", *a, *b, *settings, "--num-queries", "3"])
    main(["retrievals", str(folder / "a"), *settings])
    assert asked == [6, 4, 3, 6]


def test_command_refuses_scores_that_do_not_belong_together(evaluated):
    folder, settings = evaluated
    scores = read_scores(folder / "a" / "scores.npz")
    write_scores(folder / "val", scores, split="val")
    write_scores(folder / "less", {**scores, "image_paths": scores["image_paths"][::-1]})
    with pytest.raises(UserError, match="scores of different splits"):
        main(["grid", "--scores", str(folder / "a"), "--scores", str(folder / "val"), *settings])
    with pytest.raises(UserError, match="images"):
        main(["grid", "--scores", str(folder / "a"), "--scores", str(folder / "less"), *settings])


def test_command_from_checkpoints(debug_config, debug_settings, tmp_path, capsys):
    path = save_random_model(debug_config(), tmp_path / "best.pth")
    arguments = ["--checkpoint", str(path), *debug_settings(), "--out", str(tmp_path / "x")]
    main(["grid", *arguments, "--num-queries", "1", "--num-images", "2"])
    assert capsys.readouterr().out.split() == [str(tmp_path / "x.png"), str(tmp_path / "x.pdf")]
