"""Start from stored weights: fill a model from checkpoints of any known kind, and report what each one gave.

The names of the tensors tell the kind of a file (models/checkpoint_kinds.py). All files are planned before anything in
the model changes. Tensors are then copied from disk in parts, so that memory never holds a whole file and the model.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from models.checkpoint_kinds import (
    CROSS_ATTENTION,
    Kind,
    image_encoder_type,
    layer_number,
    of_bert_layers,
    recognise,
)
from models.name_lists import abbreviated
from models.person_search import PersonSearchModel
from models.positions import Grid, resize_positions
from utils.errors import UserError
from utils.pretrained import check_finite, read_weights

PARTS = 8  # per file; pages of a mapping stay in memory until it is closed, so each part maps the file again
POSITIONS = ("image_encoder.pos_embed", "decoder.pos_embed")
TIED = {  # second names of one parameter -> the first
    "text_encoder.cls.predictions.decoder.weight": "text_encoder.bert.embeddings.word_embeddings.weight"
}
IMAGE_SIDE = ("image_encoder.", "vision_proj.")  # useless to an image encoder of another kind
AS_WIDE_AS_IMAGE_TOKENS = ("crossattention.self.key.weight", "crossattention.self.value.weight")
NOT_FOR_RETRIEVAL = ("text_encoder.cls.", "temperature")
OF_ENCODERS = ("image_encoder.", "visual_encoder.", "text_encoder.bert.")  # in our checkpoints and in those of others


class LoadReport(NamedTuple):
    """What a checkpoint gave, by parameter names of the model; `ignored` and `unplaced` hold names of the file."""

    path: str
    kind: str
    loaded: list[str]
    resized: list[str]  # loaded after interpolation
    missing: list[str]  # the kind should have them, but no given checkpoint does: they stay random
    ignored: list[str]  # names without a place in the model
    unplaced: list[str]  # those of `ignored` that would fit a model of another shape
    copied: list[str]  # cross-attention filled from an upper layer
    new: list[str] | None = None  # parameters that no checkpoint filled; None if another checkpoint follows
    wrappers: tuple[str, ...] = ()  # parts of the file's names that were dropped, such as _orig_mod


class Plan(NamedTuple):
    """What to take from one file."""

    path: Path
    kind: Kind
    mapped: bool  # its tensors stay on disk until they are used
    grid: Grid | None  # of the file's position embeddings, if it says so
    other_image: str  # why its image encoder is useless here; empty if it is not
    wrappers: tuple[str, ...]  # parts of the file's names that were dropped
    sources: dict[str, str]  # our name -> the file's
    resized: list[str]
    missing: list[str]
    ignored: list[str]
    unplaced: list[str]


def initialise(
    model: PersonSearchModel, path: str | Path, *, allow_missing: Collection[str] = (), trust: bool = False
) -> LoadReport:
    """Fill the model from one checkpoint; see `initialise_from`."""
    return initialise_from(model, [path], allow_missing=allow_missing, trust=trust)[0]


def initialise_from(
    model: PersonSearchModel,
    paths: Sequence[str | Path],
    *,
    allow_missing: Collection[str] = (),
    trust: bool = False,
    copy_cross_attention: bool = False,
    bert_layers: Sequence[int] | None = None,
) -> list[LoadReport]:
    """Fill the model from checkpoints in order. If two hold the same parameter, the later one counts.

    Args:
        paths: files (.pth, .pt, .ckpt, .bin, .safetensors) or folders that hold one.
        allow_missing: beginnings of parameter names that may stay random although a checkpoint should hold them.
        trust: unpickle whatever the files hold, even if that runs code.
        copy_cross_attention: fill missing cross-attention of a layer from the layer fusion_layer places above it.
        bert_layers: layers to take from a Hugging Face BERT that has more than the model; None = the first ones.
    Raises: UserError that names the file, if it cannot be read, is of an unknown kind, holds tensors of another size,
        or lacks parameters that it should hold and that no other given checkpoint holds; the model is then unchanged.
        UserError that names the parameter, if the weights of one are not finite.
    """
    plans = [_plan(model, Path(path), trust, bert_layers) for path in paths]
    filled = {name for plan in plans for name in plan.sources}
    plans = [plan._replace(missing=[name for name in plan.missing if name not in filled]) for plan in plans]
    for plan in plans:
        _check_missing(plan, allow_missing)
    for plan in plans:
        _fill(model, plan, trust)
    copied = _copy_cross_attention(model, filled) if copy_cross_attention else []
    reports = [
        LoadReport(str(plan.path), plan.kind.name, list(plan.sources), *plan[-4:], copied=[], wrappers=plan.wrappers)
        for plan in plans
    ]
    if reports:
        new = [name for name, _ in model.named_parameters() if name not in filled and name not in copied]
        reports[-1] = reports[-1]._replace(copied=copied, new=new)
    return reports


def filled_names(reports: Sequence[LoadReport]) -> list[str]:
    """Return the parameters that hold stored weights. They train at lr, all others at lr_new."""
    return [name for report in reports for name in (*report.loaded, *report.copied)]


def report_table(report: LoadReport, model: PersonSearchModel) -> Table:
    """Show what a checkpoint gave: counts and names, many names as groups."""
    table = Table("", "tensors", "which", title=f"{report.path} ({report.kind})", title_justify="left")
    loaded = set(report.loaded)
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if name in loaded)
    table.add_row("loaded", str(len(loaded)), f"{abbreviated(report.loaded)}: {size / 1e6:.1f} million parameters")
    rows = {"resized": report.resized, "copied": report.copied, "new": report.new, "ignored": report.ignored}
    for label, names in rows.items():
        if names is not None and (names or label != "copied"):
            table.add_row(label, str(len(names)), abbreviated(names))
    if report.wrappers:
        table.add_row("dropped", "", f"{', '.join(report.wrappers)}: parts of names that wrappers of the network add")
    return table


def check_complete(model: PersonSearchModel, report: LoadReport) -> None:
    """Raises: UserError if the model has random weights left, or if it uses only a part of the file's encoders."""
    filled = {*report.loaded, *(name for name, _ in model.named_parameters() if name.startswith(NOT_FOR_RETRIEVAL))}
    random = [name for name, _ in model.named_parameters() if name not in filled]
    if random:
        raise UserError(
            f"{report.path} ({report.kind}) fills only a part of the model: {len(random)} parameters would be random, "
            f"{random[0]} first; evaluate a checkpoint of the whole model, such as best.pth of a run"
        )
    unplaced = [name for name in report.unplaced if name.startswith(OF_ENCODERS)]
    if unplaced:
        raise UserError(
            f"{report.path} ({report.kind}) holds {len(unplaced)} tensors that the configured model has no place for, "
            f"{unplaced[0]} first; set the sizes of model.* to what the checkpoint was trained with"
        )


def _plan(model: PersonSearchModel, path: Path, trust: bool, bert_layers: Sequence[int] | None) -> Plan:
    """Decide by names and shapes what to take. Position rows are the only tensors read from disk."""
    stored = read_weights(path, trust=trust)
    kind = recognise(stored.tensors, path)
    if bert_layers is not None and kind.name == "BERT":
        kind = of_bert_layers(kind, bert_layers)
    own = model.state_dict()
    model_image = image_encoder_type(own, "image_encoder")
    differs = kind.image is not None and kind.image != model_image
    other_image = f"its image encoder is a {kind.image}, the model's a {model_image}" if differs else ""
    grid = _stored_grid(kind, stored.config)
    plan = Plan(path, kind, stored.mapped, grid, other_image, stored.wrappers, {}, [], [], [], [])
    for their_name, tensor in stored.tensors.items():
        name = kind.rename(their_name)
        if name is None or (other_image and name.startswith(IMAGE_SIDE)):
            plan.ignored.append(their_name)
        elif name not in own:
            plan.ignored.append(their_name)
            plan.unplaced.append(their_name)
        else:
            _plan_one(model, plan, name, their_name, tensor, own[name].shape)
    for name, _ in model.named_parameters():
        of_image = name.startswith("vision_proj.") or name.endswith(AS_WIDE_AS_IMAGE_TOKENS)
        if kind.fills(name) and name not in plan.sources and not (other_image and of_image):
            plan.missing.append(name)
    return plan


def _plan_one(
    model: PersonSearchModel, plan: Plan, name: str, their_name: str, tensor: Tensor, wanted: torch.Size
) -> None:
    fitted, is_resized = _fitted(model, plan, name, tensor)
    if fitted.shape == wanted:
        plan.sources[name] = their_name
        plan.resized.extend([name] if is_resized else [])
    elif plan.other_image and name.endswith(AS_WIDE_AS_IMAGE_TOKENS):
        plan.ignored.append(their_name)
    else:
        raise UserError(
            f"{plan.path}: {their_name} is {tuple(tensor.shape)}, but the model's {name} is {tuple(wanted)}: "
            "set the sizes of the configuration to the checkpoint's"
        )


def _fitted(model: PersonSearchModel, plan: Plan, name: str, tensor: Tensor) -> tuple[Tensor, bool]:
    """Return a tensor of the file in the form of the parameter `name`, and whether it was interpolated."""
    if name not in POSITIONS or tensor.ndim < 2:
        return tensor, False
    rows = plan.kind.arrange(name, tensor)
    has_class_row = name == "decoder.pos_embed" or plan.kind.image != "mamba_reg"
    num_patches = rows.shape[1] - has_class_row
    side = math.isqrt(num_patches)
    is_square = plan.kind.name != "ours" and side * side == num_patches  # all others were trained on squares
    old_grid = plan.grid or ((side, side) if is_square else None)
    try:
        if name == "decoder.pos_embed":
            new = resize_positions(rows, model.image_encoder.grid, class_row_in_middle=False, old_grid=old_grid)
        else:
            new = model.image_encoder.resize_pos_embed(rows, old_grid)
    except ValueError as error:
        raise UserError(f"{plan.path}: {error}") from error
    return new, new is not rows


def _stored_grid(kind: Kind, config: Mapping[str, Any] | None) -> Grid | None:
    """Return the grid of patches with which one of our checkpoints, or an exported folder, was trained."""
    if kind.name != "ours" or config is None:
        return None
    encoder = config.get("image_encoder") or config["model"]["image_encoder"]
    height, width = encoder.get("image_size") or config["dataset"]["image_size"]
    return height // encoder["patch_size"], width // encoder["patch_size"]


def _check_missing(plan: Plan, allow_missing: Collection[str]) -> None:
    forbidden = [name for name in plan.missing if not name.startswith(tuple(allow_missing))]
    if forbidden:
        reason = f"{plan.other_image}; " if plan.other_image else ""
        raise UserError(
            f"{plan.path} ({plan.kind.name}) lacks {len(forbidden)} parameters that it should fill, {forbidden[0]} "
            f"first; {reason}if they may stay random, name their beginning in init.allow_missing"
        )


@torch.no_grad()
def _fill(model: PersonSearchModel, plan: Plan, trust: bool) -> None:
    own = model.state_dict()  # shares its memory with the model
    names = [name for name in plan.sources if TIED.get(name) not in plan.sources]
    for part in _parts(names, own, PARTS if plan.mapped else 1):
        tensors = read_weights(plan.path, trust=trust).tensors
        for name in part:
            fitted, _ = _fitted(model, plan, name, tensors[plan.sources[name]])
            check_finite(plan.sources[name], fitted, plan.path)
            own[name].copy_(fitted)


def _parts(names: list[str], own: Mapping[str, Tensor], number: int) -> Iterator[list[str]]:
    """Split the names into runs of at most 1 / number of the bytes. A larger tensor gets a run of its own."""
    limit = sum(own[name].nbytes for name in names) / number
    part: list[str] = []
    size = 0
    for name in names:
        if part and size + own[name].nbytes > limit:
            yield part
            part, size = [], 0
        part.append(name)
        size += own[name].nbytes
    if part:
        yield part


@torch.no_grad()
def _copy_cross_attention(model: PersonSearchModel, filled: Collection[str]) -> list[str]:
    """Fill missing cross-attention of a layer from the layer fusion_layer places above it, at most the last one."""
    own = model.state_dict()
    layers = model.text_encoder.sizes.num_hidden_layers
    copied = []
    for name, _ in model.named_parameters():
        if CROSS_ATTENTION not in name or name in filled:
            continue
        upper = min(layer_number(name) + model.text_encoder.fusion_layer, layers - 1)
        source = name.replace(f".layer.{layer_number(name)}.", f".layer.{upper}.")
        if source in filled:
            own[name].copy_(own[source])
            copied.append(name)
    return copied
