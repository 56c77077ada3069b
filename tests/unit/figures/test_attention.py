"""The figure of word attention: words from word pieces, their maps, what is drawn, and the command."""

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from dataset.attributes import Parser
from dataset.tokenizer import Encoded, load_tokenizer
from dataset.words import CaptionWord, words_in
from figures.__main__ import main
from figures.attention import CELL_INCHES, chunks_of, draw_attention, word_maps
from figures.inputs import LoadedModel, read_input
from models.attention_maps import word_attention
from models.build import build_model
from tests.helpers.saved_models import save_random_model
from utils.errors import UserError

VIT = ("model.image_encoder.type=vit", "model.image_encoder.num_heads=4")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_pieces_make_words_and_words_behind_the_last_token_are_left_out():
    """[CLS] a red ##dish coat and: "bag" has no token any more."""
    encoded = Encoded([2, 5, 6, 7, 8, 9], [(0, 0), (0, 1), (2, 5), (5, 9), (10, 14), (15, 18)])
    words = words_in("a reddish coat and bag", encoded, [[(2, 9), (10, 14)]])
    assert words == [
        CaptionWord("a", 0, [1]),
        CaptionWord("reddish", 1, [2, 3]),
        CaptionWord("coat", 1, [4]),
        CaptionWord("and", 0, [5]),
    ]


def test_maps_of_words_are_means_over_their_pieces(debug_config, picture):
    config = debug_config()
    torch.manual_seed(0)
    tokenizer = load_tokenizer(config.model.text_encoder.name)
    loaded = LoadedModel("Vim", config, build_model(config).eval(), tokenizer, torch.device("cpu"))
    words = [CaptionWord("one", 0, [1]), CaptionWord("two", 0, [2, 3])]
    maps = word_maps(loaded, picture, Encoded([2, 9, 11, 12], []), words, layer=0)
    image = loaded.model.normalize(read_input(loaded, picture))
    tokens = word_attention(loaded.model, image, torch.tensor([2, 9, 11, 12]), 0)
    torch.testing.assert_close(maps, torch.stack([tokens[1], (tokens[2] + tokens[3]) / 2]))


def drawn(words, maps, labels=("Vim", "ViT")):
    picture = np.full((60, 20, 3), 200, dtype=np.uint8)
    return draw_attention("a caption", picture, words, maps, labels[: len(maps)], "title", "legend")


def test_darkest_place_of_a_cell_is_the_maps_maximum():
    maps = torch.zeros(2, 6, 2)
    maps[0, 5, 0], maps[1, 1, 1] = 3.0, 0.5
    (axes,) = drawn([CaptionWord("shoes", 1, [1]), CaptionWord("face", 0, [2])], [maps]).axes
    image, first, second, _legend = (np.asarray(shown.get_array()) for shown in axes.images)
    assert np.ptp(image) < 1e-4
    for cell, place in ((first, (5, 0)), (second, (1, 1))):
        height, width = cell.shape[:2]
        row, column = np.unravel_index(cell[..., 1].argmin(), (height, width))
        assert (row * 6 // height, column * 2 // width) == place
        far = cell[-1 - row, -1 - column]
        assert np.ptp(far) < 1e-4  # the grey picture alone, where the map is 0


def test_bars_compare_words_of_one_model():
    maps = torch.zeros(3, 2, 2)
    maps[0, 0, 0], maps[1, 1, 1] = 4.0, 1.0
    (axes,) = drawn(
        [CaptionWord("a", 0, [1]), CaptionWord("b", 0, [2]), CaptionWord("c", 0, [3])], [maps, maps / 100]
    ).axes
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_height() < 0.04]
    shares = np.array(widths[1::2]) / CELL_INCHES  # a pale bar of full width lies behind each
    np.testing.assert_allclose(shares, [1, 1, 0.25, 0.25, 0, 0])


def test_words_labels_and_page():
    words = [CaptionWord(f"multicoloured{n}", n % 9, [n]) for n in range(1, 36)]
    figure = drawn(words, [torch.ones(35, 4, 2), torch.zeros(40, 8, 4)])
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert [text for text in texts if text.startswith("multi")] == [word.text for word in words]
    assert texts.count("Vim") == texts.count("ViT") == 4  # lines of ten cells, the image being the first
    assert len(axes.images) == 2 * 36 + 1
    for text in axes.texts:
        extent = text.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.x1, text
        assert 0 <= extent.y0 < extent.y1 <= figure.bbox.y1, text
        if text.get_text().startswith("multi"):
            assert extent.width <= CELL_INCHES * figure.dpi, text


@pytest.fixture(scope="module")
def checkpoints(debug_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    vit = save_random_model(debug_config(*VIT), folder / "vit.pth")
    return save_random_model(debug_config(), folder / "vim.pth"), vit


def test_command_with_two_models(checkpoints, debug_settings, tmp_path, capsys):
    """One configuration file for both: the sizes of the second are of its own --config."""
    vit_config = tmp_path / "vit.yaml"
    sizes = "{type: vit, num_heads: 4}"
    settings = debug_settings()
    vit_config.write_text(f"base: {settings[1]}\nmodel: {{image_encoder: {sizes}}}\n")
    sources = ["--checkpoint", str(checkpoints[0]), "--checkpoint", str(checkpoints[1]), "--config", str(vit_config)]
    main(["attention", *settings, *sources, "--query", "1", "--out", str(tmp_path / "x")])
    assert capsys.readouterr().out.split() == [str(tmp_path / "x.png"), str(tmp_path / "x.pdf")]
    assert Image.open(tmp_path / "x.png").size[0] > 1000


@pytest.mark.parametrize("parser", ["word list", "spaCy, if there is one"])
def test_a_sentence_of_ones_own_needs_no_data_set(parser, checkpoints, debug_settings, picture, monkeypatch):
    if parser == "word list":
        monkeypatch.setattr("figures.attention.installed_parser", lambda: Parser("word list", None))
    missing = picture.parent / "missing"
    arguments = ["attention", *debug_settings(f"dataset.root={missing}"), "--checkpoint", str(checkpoints[0])]
    main([*arguments, "--caption", "a man in a red coat", "--image", str(picture), "--out", str(picture.parent / "x")])
    assert not missing.exists()
    assert chunks_of("a man in a red coat") == [[(11, 14), (15, 19)]]


def test_command_shows_the_evidence_of_chunks(checkpoints, debug_settings, picture, capsys):
    arguments = ["attention", *debug_settings(), "--checkpoint", str(checkpoints[0]), "--maps", "evidence"]
    main([*arguments, "--caption", "a man in a red coat", "--image", str(picture)])
    assert str(checkpoints[0].parent / "evidence.png") in capsys.readouterr().out
    with pytest.raises(UserError, match="was trained without mlm"):
        main([*arguments, "--set", "losses.weights.mlm=0", "--caption", "a red coat", "--image", str(picture)])


def test_command_with_any_sentence_and_picture(checkpoints, debug_settings, picture, capsys):
    arguments = ["attention", *debug_settings(), "--checkpoint", str(checkpoints[0])]
    main([*arguments, "--caption", "a man", "--image", str(picture)])
    assert str(checkpoints[0].parent / "attention.png") in capsys.readouterr().out
    for mistake, message in (
        (["--caption", "a man"], "--caption needs --image"),
        (["--query", "999"], "no caption 999"),
        (["--layer", "1"], "layer 1 has no attention of words"),
        (["--maps", "evidence", "--layer", "0"], "--layer goes with --maps attention"),
        (["--maps", "evidence", "--caption", "a man", "--image", str(picture)], "has no attribute chunk"),
        (["--caption", " . ", "--image", str(picture)], "has no word"),
        (["--image", str(picture.with_name("b.png"))], r"b\.png: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            main([*arguments, *mistake])
