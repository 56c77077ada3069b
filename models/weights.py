"""Start from foreign weights: which kind a checkpoint is, is recognised from its keys; what was loaded is reported.

Kinds: a Vision Mamba (any size, `{"model": ...}` or bare), a Hugging Face BERT (folder, or the name of one that is at
hand), one of our own checkpoints. Only tensors are read, never pickled code.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from models.person_search import PersonSearchModel
from utils.errors import UserError

NAMES_SHOWN = 4


class LoadReport(NamedTuple):
    """What a checkpoint filled: names of the model's parameters, but `ignored` holds names of the checkpoint."""

    path: str
    kind: str
    loaded: list[str]
    resized: list[str]  # loaded after interpolation
    missing: list[str]  # of the checkpoint's kind, yet not in it: they stay random
    ignored: list[str]  # in the checkpoint, without a place in the model


class Kind(NamedTuple):
    """One kind of checkpoint: how its names map to ours (None = no place) and which of ours it should fill."""

    name: str
    marker: str  # a key that only this kind has
    rename: Callable[[str], str | None]
    fills: Callable[[str], bool]


def initialise(model: PersonSearchModel, path: str | Path, *, allow_missing: Collection[str] = ()) -> LoadReport:
    """Fill the model with what a checkpoint holds for it.

    Args:
        path: a file (.pth, .pt, .bin, .safetensors) or a folder that holds one.
        allow_missing: beginnings of parameter names that may stay random although the checkpoint should hold them.
    Raises: UserError naming the file if it cannot be read, is of no known kind, holds tensors of another size, or
        lacks parameters that it should hold.
    """
    state = read_state_dict(Path(path))
    kind = recognise(state, path)
    own = model.state_dict()
    loaded, resized, ignored = {}, [], []
    for their_name, tensor in state.items():
        name = kind.rename(their_name)
        if name is None or name not in own:
            ignored.append(their_name)
            continue
        if name == "image_encoder.pos_embed" and tensor.shape != own[name].shape:
            tensor = model.image_encoder.resize_pos_embed(tensor)
            resized.append(name)
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{path}: {their_name} is {tuple(tensor.shape)}, but the model's {name} is {tuple(own[name].shape)}: "
                "set the sizes of the configuration to the checkpoint's"
            )
        loaded[name] = tensor
    missing = [name for name, _ in model.named_parameters() if kind.fills(name) and name not in loaded]
    forbidden = [name for name in missing if not name.startswith(tuple(allow_missing))]
    if forbidden:
        raise UserError(
            f"{path} ({kind.name}) lacks {len(forbidden)} parameters that it should fill, {forbidden[0]} first; "
            f"if they may stay random, name their beginning in init.allow_missing"
        )
    model.load_state_dict(own | loaded)
    return LoadReport(str(path), kind.name, list(loaded), resized, missing, ignored)


def report_table(report: LoadReport, model: PersonSearchModel) -> Table:
    """What a checkpoint gave, for a person: counts, and names where there are few enough to read."""
    table = Table("", "tensors", "which", title=f"{report.path} ({report.kind})", title_justify="left")
    size = sum(parameter.numel() for name, parameter in model.named_parameters() if name in set(report.loaded))
    table.add_row("loaded", str(len(report.loaded)), f"{size / 1e6:.1f} million parameters")
    for label, names in (("resized", report.resized), ("left random", report.missing), ("ignored", report.ignored)):
        shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
        table.add_row(label, str(len(names)), shown)
    return table


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read named tensors from a file or from the file in a Hugging Face folder.

    Raises: UserError if there is none, or if it holds anything but tensors and plain values.
    """
    if path.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        found = [path / name for name in names if (path / name).exists()]
        if not found:
            raise UserError(f"{path} holds neither of {' and '.join(names)}: not a checkpoint folder")
        path = found[0]
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a file that is cut off, no pickle, or one with code
        raise UserError(f"checkpoint {path} is not a plain file of tensors: {str(error).splitlines()[0]}") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"checkpoint {path} holds no named tensors")
    return state


def recognise(state: dict[str, Tensor], path: str | Path) -> Kind:
    """Raises: UserError if the keys are of no known kind."""
    for kind in KINDS:
        if kind.marker in state:
            return kind
    raise UserError(
        f"{path}: unknown kind of checkpoint (first key: {next(iter(state))}); known are "
        + ", ".join(kind.name for kind in KINDS)
    )


def _rename_vim(name: str) -> str | None:
    return None if name.startswith("head.") else f"image_encoder.{name}"


def _rename_bert(name: str) -> str | None:
    name = name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
    return f"text_encoder.{name}" if name.startswith("cls.") else f"text_encoder.bert.{name}"


def _bert_fills(name: str) -> bool:
    # a bare BertModel comes without the masked-language head, and no BERT has cross-attention
    return name.startswith("text_encoder.bert.") and "crossattention" not in name


KINDS = (
    Kind("ours", "image_encoder.pos_embed", lambda name: name, lambda name: True),
    Kind("Vision Mamba", "layers.0.mixer.A_b_log", _rename_vim, lambda name: name.startswith("image_encoder.")),
    Kind("BERT", "embeddings.word_embeddings.weight", _rename_bert, _bert_fills),
    Kind("BERT", "bert.embeddings.word_embeddings.weight", _rename_bert, _bert_fills),
)
