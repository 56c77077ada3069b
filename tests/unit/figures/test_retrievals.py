"""Captions beside the images that a model ranks first: which are chosen, what is drawn, and the command."""

import json
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from dataset.records import Record
from figures.__main__ import main
from figures.inputs import captions_of
from figures.retrievals import Retrieval, choose_queries, collect, draw_retrievals
from figures.style import GREEN, GREY, save
from tests.helpers.paths import CONFIGS
from utils.errors import UserError

BASE = CONFIGS / "base.yaml"
CONFIG = "base: {base}\ndataset: {{root: '{root}'}}\n"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 50), "blue").save(path)
    return path


def test_drawn_queries_are_of_different_people_in_the_gallery():
    text_person_id = np.array([1, 1, 2, 2, 3, 3, 4])
    queries = choose_queries(9, text_person_id, np.array([1, 2, 3]), seed=0)
    assert sorted(text_person_id[queries].tolist()) == [1, 2, 3]
    assert len(choose_queries(2, text_person_id, np.array([1, 2, 3]), seed=0)) == 2
    draws = {tuple(choose_queries(9, text_person_id, np.array([1, 2, 3]), seed)) for seed in range(20)}
    assert len(draws) > 1


def test_collected_ranks_by_hand(picture):
    order = np.array([[2, 0, 1], [0, 1, 2]])
    answers = collect(
        [0, 1], order, ["a", "b"], np.array([7, 9]), np.array([7, 7, 8]), ["i0", "i1", "i2"], num_images=2
    )
    assert answers[0] == Retrieval("a", ["i2", "i0"], [False, True], first_right=2, num_right=2, gallery_size=3)
    assert answers[1] == Retrieval("b", ["i0", "i1"], [False, False], first_right=0, num_right=0, gallery_size=3)


@pytest.mark.parametrize("query", [-1, 2])
def test_query_that_does_not_exist(query):
    with pytest.raises(UserError, match=f"no caption {query}: they are numbered 0 to 1"):
        collect([query], np.zeros((2, 1)), ["a", "b"], np.zeros(2), np.zeros(1), ["i"], num_images=1)


def test_frames_ticks_and_words(picture):
    retrievals = [Retrieval("a man with $5 in his\n hand", [picture] * 3, [False, True, False], 2, 1, 9)]
    (axes,) = draw_retrievals(retrievals, "title").axes
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [to_hex(frame.get_edgecolor()).upper() for frame in frames] == [GREY, GREEN, GREY]
    assert frames[1].get_linewidth() > 2 * frames[0].get_linewidth()
    assert {frame.get_width() for frame in frames} == {frames[0].get_width()}
    words = [text.get_text() for text in axes.texts]
    assert words.count("✓") == 1
    assert "a man with $5 in his hand" in words
    assert "first right image: rank 2 of 9\nright images in the gallery: 1" in words


def test_captions_of_usual_length_are_not_cut(picture):
    """40 words, where the mean of CUHK-PEDES is 23."""
    retrievals = [Retrieval(" ".join(f"word{n}" for n in range(40)), [picture], [True], 1, 1, 1)]
    (axes,) = draw_retrievals(retrievals, "title").axes
    assert next(text for text in axes.texts if text.get_text().startswith("word")).get_text().endswith("word39")


def test_ten_images_fit_a_page(picture):
    """8 pt on 8.7 inches are 6 pt on the 6.5 of a page."""
    retrieval = Retrieval("a man", [picture] * 10, [True] * 10, 1, 1, 1)
    figure = draw_retrievals([retrieval], "title " * 30)
    assert figure.get_figwidth() < 8.8
    assert min(text.get_fontsize() for text in figure.axes[0].texts) >= 8
    title = next(text for text in figure.axes[0].texts if text.get_text().startswith("title"))
    assert title.get_window_extent().x1 <= figure.bbox.x1
    ranks = [text for text in figure.axes[0].texts if text.get_text() == "1"]
    assert not title.get_window_extent().overlaps(ranks[0].get_window_extent())


def test_long_caption_is_cut_above_the_note(picture):
    retrievals = [Retrieval("word " * 300, [picture], [True], 1, 1, 1)]
    figure = draw_retrievals(retrievals, "title")
    caption = next(text for text in figure.axes[0].texts if text.get_text().startswith("word"))
    note = next(text for text in figure.axes[0].texts if text.get_text().startswith("first right"))
    assert caption.get_text().endswith(" …")
    assert not caption.get_window_extent().overlaps(note.get_window_extent())
    first_image = figure.axes[0].patches[0].get_window_extent()
    assert caption.get_window_extent().x1 < first_image.x0


@pytest.mark.parametrize("num_images", [1, 10])
def test_no_word_is_clipped(picture, num_images):
    retrieval = Retrieval("word " * 300, [picture] * num_images, [True] * num_images, 10, 10, 99_999)
    figure = draw_retrievals([retrieval], "drawn pedestrians, CUHK-PEDES test: 10 of 6156 captions at random (seed 10)")
    for text in figure.axes[0].texts:
        extent = text.get_window_extent()
        assert extent.x0 >= 0, text
        assert extent.y0 >= 0, text
        assert extent.x1 <= figure.bbox.x1, text
        assert extent.y1 <= figure.bbox.y1, text


def test_images_that_cannot_be_read(tmp_path):
    broken = tmp_path / "b.jpg"
    broken.write_text("no image")
    for path, message in ((broken, "b.jpg cannot be read"), (tmp_path / "c.jpg", "c.jpg does not exist")):
        with pytest.raises(UserError, match=message):
            draw_retrievals([Retrieval("a", [path], [True], 1, 1, 1)], "title")


@pytest.fixture
def evaluated(tmp_path):
    """A split of two people with two images and three captions, and the scores of an evaluation; (folder, config)."""
    root, folder = tmp_path / "data", tmp_path / "eval"
    records = [
        {"id": 5, "file_path": "x/0.png", "captions": ["a tall man", "a man"]},
        {"id": 6, "file_path": "x/1.png", "captions": ["a woman"]},
    ]
    for path in (root / "imgs" / "x", root / "processed_data", folder):
        path.mkdir(parents=True)
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (10, 20), colour).save(root / "imgs" / "x" / f"{number}.png")
    (root / "processed_data" / "test.json").write_text(json.dumps(records))
    (folder / "metrics.json").write_text('{"split": "test"}')
    scores = {
        "similarity": np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]], dtype=np.float32),
        "scores": np.array([[2, 1], [2, 1], [2, 1]], dtype=np.float32),
        "text_person_ids": np.array([5, 5, 6]),
        "image_person_ids": np.array([5, 6]),
        "image_paths": np.array(["x/0.png", "x/1.png"]),
    }
    np.savez(folder / "scores.npz", **scores)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(base=BASE, root=root))
    return folder, config


def test_retrievals_command(evaluated, capsys):
    folder, config = evaluated
    main(["retrievals", str(folder), "--config", str(config), "--queries", "0", "2"])
    assert capsys.readouterr().out.split() == [str(folder / "retrievals.png"), str(folder / "retrievals.pdf")]
    assert Image.open(folder / "retrievals.png").size[0] > 500


def test_retrievals_without_scores(evaluated):
    folder, config = evaluated
    (folder / "scores.npz").unlink()
    with pytest.raises(UserError, match=r"run eval\.py with --save-scores"):
        main(["retrievals", str(folder), "--config", str(config)])


def test_scores_of_another_program(evaluated):
    folder, config = evaluated
    np.savez(folder / "scores.npz", similarity=np.zeros(1))
    with pytest.raises(UserError, match=r"is not a file of eval\.py --save-scores"):
        main(["retrievals", str(folder), "--config", str(config)])


def test_captions_of_another_split_are_refused():
    records = [Record(1, "a.jpg", ("one", "two")), Record(2, "skipped.jpg", ("three",)), Record(3, "b.jpg", ("four",))]
    scores = {"image_paths": np.array(["a.jpg", "b.jpg"]), "text_person_ids": np.array([1, 1, 3])}
    assert captions_of(records, scores, "data, test") == ["one", "two", "four"]
    with pytest.raises(UserError, match="not the captions that were scored"):
        captions_of(records, scores | {"text_person_ids": np.array([1, 3])}, "data, val")


def test_pictures_in_a_pdf_are_fine_enough_for_print(tmp_path):
    """300 pixels an inch: 0.52 inches of a gallery image are 156 pixels."""
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 160, 3), dtype=np.uint8)).save(path)
    _, pdf = save(draw_retrievals([Retrieval("a man", [path], [True], 1, 1, 1)], "title"), tmp_path / "x")
    widths = [int(width) for width in re.findall(rb"/Width (\d+)", pdf.read_bytes())]
    assert max(widths) > 150
