"""The figure of the reconstruction task: pixels and errors by hand, what is drawn, and the command."""

import numpy as np
import pytest
import torch
from PIL import Image

from figures.__main__ import main
from figures.mae import HIDDEN_GREY, Rebuilt, draw_rebuilt, rebuild
from losses.mae import KeptPatches, patchify
from tests.helpers.saved_models import save_random_model
from tests.helpers.tiny_models import tiny_model
from utils.errors import UserError

SIZE = (48, 16)  # 6 x 2 patches of 8 px
KEPT = torch.tensor([[1, 4, 5, 11]])
MASKED = torch.ones(1, 12, dtype=torch.bool).scatter(1, KEPT, False)
IDS = torch.tensor([[2, 7, 9]])


def any_image():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=generator)


def as_patches(picture):
    """(H, W, 3) -> (12, 8 * 8 * 3)."""
    return patchify(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None], 8)[0]


@pytest.mark.parametrize("kind", ["vit", "vim", "mamba_reg"])
def test_pictures_and_error(kind):
    model, image = tiny_model(kind, image_size=SIZE).eval(), any_image()
    result = rebuild(model, image, IDS, KeptPatches(KEPT, MASKED))
    original, masked, rebuilt = (as_patches(picture) for picture in result[:3])
    np.testing.assert_allclose(result.image, image[0].permute(1, 2, 0).numpy() / 255, atol=1e-6)
    visible, hidden = KEPT[0], MASKED[0]
    for picture in (masked, rebuilt):
        torch.testing.assert_close(picture[visible], original[visible])
    torch.testing.assert_close(masked[hidden], torch.full((8, 192), HIDDEN_GREY), rtol=0, atol=1 / 255)
    assert rebuilt[hidden].std() > 0
    # the deviation of the normalisation is 0.25; predictions of random weights stay within the range of pixels
    error = ((rebuilt - original)[hidden] / 0.25).square().mean()
    assert result.error == pytest.approx(float(error), rel=1e-4)
    mean = original[visible].unflatten(1, (-1, 3)).mean(dim=(0, 1))
    error_of_mean = ((original[hidden].unflatten(1, (-1, 3)) - mean) / 0.25).square().mean()
    assert result.error_of_mean == pytest.approx(float(error_of_mean), rel=1e-4)


def test_perfect_decoder():
    model, image = tiny_model("vim", image_size=SIZE).eval(), any_image()
    model.decoder.forward = lambda *_: patchify(model.normalize(image), 8)
    result = rebuild(model, image, IDS, KeptPatches(KEPT, MASKED))
    assert result.error == 0
    np.testing.assert_array_equal(result.rebuilt, result.image)


def test_model_without_decoder():
    model = tiny_model(image_size=SIZE, tasks=frozenset({"itc"}))
    with pytest.raises(UserError, match="no decoder"):
        rebuild(model, any_image(), IDS, KeptPatches(KEPT, MASKED))


def test_drawn_pictures_and_words():
    pictures = [np.full((48, 16, 3), value) for value in (0.1, 0.2, 0.3)]
    results = [[Rebuilt(*pictures, 0.25, 0.5), Rebuilt(*pictures, 1.0, 0.5)]] * 2
    figure = draw_rebuilt(["a man with $5", "word " * 200], results, ["Vim", "ViT"], "title")
    (axes,) = figure.axes
    shown = [float(np.asarray(image.get_array())[0, 0, 0]) for image in axes.images]
    assert shown == [0.1, 0.2, 0.3, 0.2, 0.3] * 2
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("rebuilt") == texts.count("masked") == 2
    assert texts.count("0.25  (0.50)") == texts.count("1.00  (0.50)") == 2
    for text in axes.texts:
        extent = text.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.x1, text
        assert 0 <= extent.y0 < extent.y1 <= figure.bbox.y1, text


def test_command(debug_config, debug_settings, tmp_path, capsys):
    path = save_random_model(debug_config(), tmp_path / "best.pth")
    main(["mae", *debug_settings(), "--checkpoint", str(path), "--number", "2"])
    assert capsys.readouterr().out.split() == [str(tmp_path / "mae.png"), str(tmp_path / "mae.pdf")]
    assert Image.open(tmp_path / "mae.png").size[0] > 1000
    first = (tmp_path / "mae.png").read_bytes()
    main(["mae", *debug_settings(), "--checkpoint", str(path), "--number", "2"])
    assert (tmp_path / "mae.png").read_bytes() == first
    with pytest.raises(UserError, match="no caption 500"):
        main(["mae", *debug_settings(), "--checkpoint", str(path), "--queries", "500"])


def test_command_on_a_checkpoint_without_decoder(debug_config, debug_settings, tmp_path):
    config = debug_config("losses.weights.mae=0")
    path = save_random_model(config, tmp_path / "best.pth")
    with pytest.raises(UserError, match="decoder"):
        main(["mae", *debug_settings(), "--checkpoint", str(path)])
