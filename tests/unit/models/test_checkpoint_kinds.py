"""Every kind of checkpoint, tiny and in its original names: what is loaded, resized, left new and ignored."""

import pytest
import torch
from torch.nn import functional as F

from models.checkpoint_kinds import recognise
from models.weights import filled_names, initialise, initialise_from
from tests.helpers.checkpoint_files import assert_taken, save, vim_file
from tests.helpers.tiny_models import published_system, tiny_model
from utils.errors import UserError

NOT_OF_ALBEF = ("prd_head.", "mrtd_head.", "decoder.")
LOWER_CROSS_ATTENTION = tuple(f"text_encoder.bert.encoder.layer.{n}.crossattention." for n in (0, 1))


def square_to(rows, grid, side, class_row):
    """Bicubic interpolation of position rows, written with the class row's place given."""
    patches = torch.cat([rows[:, :class_row], rows[:, class_row + 1 :]], dim=1)[0].T.reshape(1, -1, side, side)
    new = F.interpolate(patches, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    return new, rows[0, class_row]


@pytest.fixture
def albef(tmp_path):
    """A donor without cross-attention below its fusion layer, and its file at 32 px as ALBEF names it."""
    donor = tiny_model(full_cross_attention=False, seed=1)
    content = {"model": published_system(donor, without=NOT_OF_ALBEF), "optimizer": {}, "config": {"temp": 0.07}}
    return donor, save(content, tmp_path / "ALBEF.pth")


def test_albef_into_the_vit_baseline(albef):
    donor, path = albef
    model = tiny_model(image_size=(48, 48), full_cross_attention=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = initialise(model, path)
    assert report.kind == "ALBEF"
    assert report.resized == ["image_encoder.pos_embed"]
    assert report.missing == []
    assert report.new
    assert all(name.startswith(NOT_OF_ALBEF) for name in report.new)
    assert_taken(model, donor, [name for name in report.loaded if name not in report.resized])
    for name in report.new:
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert {"image_queue", "text_queue", "queue_ptr", "visual_encoder_m.cls_token"} <= set(report.ignored)
    assert report.unplaced == []
    patches, class_row = square_to(donor.image_encoder.pos_embed.data, (6, 6), 4, class_row=0)
    torch.testing.assert_close(model.image_encoder.pos_embed[0, 0], class_row)
    torch.testing.assert_close(model.image_encoder.pos_embed[0, 1:], patches)


def test_albef_with_full_cross_attention_leaves_the_lower_layers_new(albef):
    _, path = albef
    report = initialise(tiny_model(), path)
    lower = [name for name in report.new if name.startswith(LOWER_CROSS_ATTENTION)]
    assert len(lower) == 20
    assert not set(lower) & set(filled_names([report]))


def test_lower_cross_attention_is_copied_from_the_upper_layers_on_request(albef):
    donor, path = albef
    model = tiny_model()
    (report,) = initialise_from(model, [path], copy_cross_attention=True)
    own, theirs = model.state_dict(), donor.state_dict()
    assert len(report.copied) == 20
    for name in report.copied:
        upper = name.replace(".layer.0.", ".layer.2.").replace(".layer.1.", ".layer.3.")
        assert torch.equal(own[name], theirs[upper]), name
    assert not any(name.startswith(LOWER_CROSS_ATTENTION) for name in report.new)
    assert set(report.copied) <= set(filled_names([report]))


def test_albef_alone_is_too_little_for_a_vim(albef):
    _, path = albef
    model = tiny_model("vim")
    before = model.itm_head.weight.clone()
    with pytest.raises(UserError, match=r"\(ALBEF\) lacks .* image_encoder.* a vit, the model's a vim.*allow_missing"):
        initialise(model, path)
    assert torch.equal(model.itm_head.weight, before)


@pytest.mark.parametrize("vim_first", [True, False])
def test_albef_for_the_text_side_and_a_vim_for_the_image_side(albef, tmp_path, vim_first):
    donor, path = albef
    vim = tiny_model("vim", seed=2)
    vim_path = save({"model": vim.image_encoder.state_dict()}, tmp_path / "vim.pth")
    model = tiny_model("vim")
    reports = initialise_from(model, [vim_path, path] if vim_first else [path, vim_path])
    by_kind = {report.kind: report for report in reports}
    assert_taken(model, vim, by_kind["Vision Mamba"].loaded)
    assert_taken(model, donor, by_kind["ALBEF"].loaded)
    assert not any(name.startswith(("image_encoder.", "vision_proj.")) for name in by_kind["ALBEF"].loaded)
    assert reports[0].new is None
    assert {"vision_proj.weight", "vision_proj.bias", "prd_head.weight"} <= set(reports[1].new)
    assert not any(name.startswith("image_encoder.") for name in reports[1].new)


def test_albef_beside_a_vim_of_another_width(albef):
    _, path = albef
    report = initialise(tiny_model("vim", width=8), path, allow_missing=["image_encoder"])
    assert "text_encoder.bert.encoder.layer.2.crossattention.self.key.weight" in report.new
    assert "text_encoder.bert.encoder.layer.2.crossattention.self.query.weight" in report.loaded


def test_no_image_encoder_at_all(albef, tmp_path):
    donor, _ = albef
    path = save(published_system(donor, without=("image_encoder.", *NOT_OF_ALBEF)), tmp_path / "no_image.pth")
    model = tiny_model(full_cross_attention=False)
    with pytest.raises(UserError, match=r"lacks .* parameters that it should fill, image_encoder\.cls_token"):
        initialise(model, path)
    report = initialise(model, path, allow_missing=["image_encoder."])
    assert all(name.startswith("image_encoder.") for name in report.missing)


def test_rasa(tmp_path):
    donor = tiny_model(full_cross_attention=False, seed=1)
    path = save(published_system(donor, without=("decoder.",)), tmp_path / "rasa.pth")  # bare
    model = tiny_model(full_cross_attention=False)
    report = initialise(model, path)
    assert report.kind == "RaSa"
    assert_taken(model, donor, report.loaded)
    assert {"prd_head.weight", "mrtd_head.weight", "temperature"} <= set(report.loaded)
    assert all(name.startswith("decoder.") for name in report.new)


def test_mars_with_its_decoder(tmp_path):
    donor = tiny_model(seed=1)
    tensors = published_system(donor)
    tensors["visual_decoder_pos_embed"] = torch.cat([tensors["visual_decoder_pos_embed"], torch.ones(9, 16)])
    model = tiny_model()
    report = initialise(model, save({"model": tensors}, tmp_path / "mars.pth"))
    assert report.kind == "MARS"
    assert report.new == []
    assert_taken(model, donor, report.loaded)


def test_mars_at_another_resolution_resizes_the_decoders_rows(tmp_path):
    donor = tiny_model(seed=1)
    model = tiny_model(image_size=(48, 24))
    report = initialise(model, save({"model": published_system(donor)}, tmp_path / "mars.pth"))
    assert report.resized == ["image_encoder.pos_embed", "decoder.pos_embed"]
    patches, class_row = square_to(donor.decoder.pos_embed.data, (6, 3), 4, class_row=0)
    torch.testing.assert_close(model.decoder.pos_embed[0, 0], class_row)
    torch.testing.assert_close(model.decoder.pos_embed[0, 1:], patches)


def test_mamba_tbps_moves_the_class_row_to_the_middle(tmp_path):
    donor = tiny_model("vim", seed=1)
    model = tiny_model("vim")
    report = initialise(model, save({"model": published_system(donor)}, tmp_path / "tbps.pth"))
    assert report.kind == "MAMBA-TBPS"
    rows, stored = model.image_encoder.pos_embed[0], donor.image_encoder.pos_embed[0]
    assert torch.equal(rows[8], stored[0])
    assert torch.equal(rows[:8], stored[1:9])
    assert torch.equal(rows[9:], stored[9:])
    assert_taken(model, donor, [name for name in report.loaded if name != "image_encoder.pos_embed"])


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_vim(tmp_path, wrapped, prefix):
    donor = tiny_model("vim", seed=1)
    tensors = {f"{prefix}{name}": tensor for name, tensor in vim_file(donor).items()}
    path = save({"model": tensors, "epoch": 3} if wrapped else tensors, tmp_path / "vim.pth")
    model = tiny_model("vim")
    report = initialise(model, path)
    assert report.kind == "Vision Mamba"
    assert report.ignored == ["head.weight", "head.bias"]
    assert_taken(model, donor, report.loaded)
    assert {name for name, _ in model.named_parameters() if name.startswith("image_encoder.")} <= set(report.loaded)


@pytest.mark.parametrize("size", [(48, 48), (48, 24), (64, 16)])  # the last has as many patches as the file
def test_vim_rows_at_another_resolution_keep_the_class_row_in_the_middle(tmp_path, size):
    donor = tiny_model("vim", seed=1)
    model = tiny_model("vim", image_size=size)
    report = initialise(model, save({"model": vim_file(donor)}, tmp_path / "vim.pth"))
    assert report.resized == ["image_encoder.pos_embed"]
    grid = (size[0] // 8, size[1] // 8)
    patches, class_row = square_to(donor.image_encoder.pos_embed.data, grid, 4, class_row=8)
    middle, rows = grid[0] * grid[1] // 2, model.image_encoder.pos_embed[0]
    torch.testing.assert_close(rows[middle], class_row)
    torch.testing.assert_close(torch.cat([rows[:middle], rows[middle + 1 :]]), patches)


def test_masked_autoencoder_vim(tmp_path):
    """Its rows are a fixed embedding, the class token's (zero) first; its decoder has no place here."""
    donor = tiny_model("vim", seed=1)
    with torch.no_grad():
        donor.image_encoder.pos_embed[0, 0] = 0
    more = {"decoder_embed.weight": torch.randn(4, 16), "mask_token": torch.randn(1, 1, 4)}
    content = {"state_dict": {f"backbone.{name}": tensor for name, tensor in vim_file(donor, **more).items()}}
    model = tiny_model("vim")
    report = initialise(model, save(content, tmp_path / "mae.ckpt"))
    assert report.ignored == ["head.weight", "head.bias", "decoder_embed.weight", "mask_token"]
    assert not model.image_encoder.pos_embed[0, 8].any()
    assert torch.equal(model.image_encoder.pos_embed[0, :8], donor.image_encoder.pos_embed[0, 1:9])


def test_vim_with_a_norm_behind_the_scan_is_refused():
    tensors = vim_file(tiny_model("vim"), **{"layers.0.mixer.layernorm.weight": torch.ones(32)})
    with pytest.raises(UserError, match=r"vim\.ckpt: a Vim with a LayerNorm behind each scan"):
        recognise(tensors, "vim.ckpt")


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (64, 16)])  # the last has as many patches as the file
def test_mamba_reg_keeps_the_registers_at_another_resolution(tmp_path, size):
    donor = tiny_model("mamba_reg", seed=1)
    model = tiny_model("mamba_reg", image_size=size)
    report = initialise(model, save({"model": vim_file(donor)}, tmp_path / "mambar.pth"))
    assert (report.kind, report.ignored) == ("Mamba-Reg", ["head.weight", "head.bias"])
    assert {name for name, _ in model.named_parameters() if name.startswith("image_encoder.")} <= set(report.loaded)
    resized = [] if size == (32, 32) else ["image_encoder.pos_embed"]
    assert report.resized == resized
    assert_taken(model, donor, [name for name in report.loaded if name not in resized])
    image = donor.image_encoder.pos_embed.data.transpose(1, 2).unflatten(2, (4, 4))
    expected = F.interpolate(image, (size[0] // 8, size[1] // 8), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.image_encoder.pos_embed.data, expected)


def test_ours_with_registers_at_another_shape(tmp_path):
    donor = tiny_model("mamba_reg", image_size=(64, 16), seed=1)
    config = {"dataset": {"image_size": [64, 16]}, "model": {"image_encoder": {"patch_size": 8}}}
    path = save({"model": donor.state_dict(), "config": config}, tmp_path / "best.pth")
    assert initialise(tiny_model("mamba_reg", image_size=(64, 16)), path).resized == []
    resized = initialise(tiny_model("mamba_reg"), path).resized
    assert resized == ["image_encoder.pos_embed", "decoder.pos_embed"]


@pytest.mark.parametrize(("file", "own"), [("vim", "mamba_reg"), ("mamba_reg", "vim"), ("mamba_reg", "vit")])
def test_registers_and_a_class_token_do_not_go_together(tmp_path, file, own):
    path = save(vim_file(tiny_model(file)), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"its image encoder is a {file}, the model's a {own}"):
        initialise(tiny_model(own), path)


def test_ours_with_another_image_encoder_is_refused(tmp_path):
    path = save({"model": tiny_model("vim").state_dict()}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="its image encoder is a vim, the model's a mamba_reg"):
        initialise(tiny_model("mamba_reg"), path)


def test_vim_into_a_vit_is_refused(tmp_path):
    path = save(vim_file(tiny_model("vim")), tmp_path / "vim.pth")
    with pytest.raises(UserError, match="its image encoder is a vim, the model's a vit"):
        initialise(tiny_model("vit"), path)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown kind of checkpoint \(first key: conv1\.weight"):
        initialise(tiny_model(), save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth"))


def test_ours_at_another_shape_is_resized_from_the_grid_it_was_trained_with(tmp_path):
    """16 patches in 8 x 2: without the configuration in the file they would pass for 4 x 4."""
    donor = tiny_model("vim", image_size=(64, 16), seed=1)
    config = {"dataset": {"image_size": [64, 16]}, "model": {"image_encoder": {"patch_size": 8}}}
    path = save({"model": donor.state_dict(), "config": config}, tmp_path / "best.pth")
    same = tiny_model("vim", image_size=(64, 16))
    assert initialise(same, path).resized == []
    assert_taken(same, donor, [name for name, _ in same.named_parameters()])
    square = tiny_model("vim")
    assert initialise(square, path).resized == ["image_encoder.pos_embed", "decoder.pos_embed"]
    assert not torch.equal(square.image_encoder.pos_embed, donor.image_encoder.pos_embed)
