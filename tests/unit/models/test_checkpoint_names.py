"""Names of parameters that wrappers of a network change, and weights that are not finite."""

import pytest
import torch

from models.weights import initialise
from tests.helpers.checkpoint_files import assert_taken, save, vim_file
from tests.helpers.tiny_models import published_system, tiny_model
from utils.errors import UserError


def wrapped(tensors, style):
    """The names that a network has inside torch.compile, DDP, FSDP or activation checkpointing."""

    def name_of(name):
        first, _, rest = name.partition(".")
        layer, *others = name.split(".layers.0.") if ".layers.0." in name else (name,)
        inside = f"{layer}.layers.0._orig_mod.{others[0]}" if others else name
        return {
            "compiled": f"_orig_mod.{name}",
            "compiled, then DDP": f"module._orig_mod.{name}",
            "DDP, then compiled": f"_orig_mod.module.{name}",
            "compiled layers": inside,
            "FSDP and checkpointing": f"_fsdp_wrapped_module.{first}._checkpoint_wrapped_module.{rest}".rstrip("."),
        }[style]

    return {name_of(name): tensor for name, tensor in tensors.items()}


STYLES = ("compiled", "compiled, then DDP", "DDP, then compiled", "compiled layers", "FSDP and checkpointing")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["ours", "MAMBA-TBPS", "Vision Mamba", "BERT"])
def test_parts_of_names_that_wrappers_add_are_dropped(tmp_path, kind, style):
    donor, model = tiny_model("vim", seed=1), tiny_model("vim")
    own = donor.state_dict()
    tensors = {
        "ours": own,
        "MAMBA-TBPS": published_system(donor),
        "Vision Mamba": {f"{'' if style != 'compiled layers' else 'net.'}{k}": v for k, v in vim_file(donor).items()},
        "BERT": {k.removeprefix("text_encoder."): v for k, v in own.items() if k.startswith("text_encoder.bert.")},
    }[kind]
    renamed = {name.removeprefix("net."): tensor for name, tensor in wrapped(tensors, style).items()}
    bare = save({"model": {k.removeprefix("net."): v for k, v in tensors.items()}}, tmp_path / "bare.pth")
    expected = initialise(tiny_model("vim"), bare)
    report = initialise(model, save({"model": renamed}, tmp_path / "wrapped.pth"))
    assert report.kind == kind
    assert report[2:-1] == expected[2:-1]
    assert_taken(model, donor, [name for name in report.loaded if name != "image_encoder.pos_embed"])
    if style == "compiled, then DDP":
        assert report.wrappers == ("_orig_mod", "module")
    assert expected.wrappers == ()


def test_two_names_of_one_parameter_are_refused(tmp_path):
    tensors = {"temperature": torch.zeros(()), "_orig_mod.temperature": torch.ones(())}
    with pytest.raises(UserError, match=r"two\.pth: _orig_mod\.temperature is a second temperature"):
        initialise(tiny_model(), save(tensors, tmp_path / "two.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value, half):
    tensors = tiny_model(seed=1).state_dict()
    tensors["vision_proj.weight"][0, :3] = value
    content = {"model": {name: tensor.half() if half else tensor for name, tensor in tensors.items()}}
    with pytest.raises(UserError, match=r"bad\.pth: 3 of the 128 weights of vision_proj\.weight are NaN or infinite"):
        initialise(tiny_model(), save(content, tmp_path / "bad.pth"))


def test_what_is_not_used_need_not_be_finite(tmp_path):
    tensors = published_system(tiny_model(seed=1))
    tensors["image_queue"][:] = float("nan")
    assert initialise(tiny_model(), save({"model": tensors}, tmp_path / "mars.pth")).kind == "MARS"
