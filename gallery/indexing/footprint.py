"""How much disk an index will take, and whether it stores the images' tokens. K image tokens, D their width.

The second stage reads the tokens of its candidates: K * D float16 values per image, 302 kB for Vim-B at 224 px, where a
vector takes 1 kB. If the index stores none, every query encodes the files of its candidates again.
"""

import logging
import shutil
from pathlib import Path
from typing import Literal

from models.build import model_sizes
from utils.config import Config
from utils.errors import UserError

logger = logging.getLogger(__name__)

Tokens = Literal["auto", "yes", "no"]

SHARE_OF_FREE_SPACE = 0.25  # most that tokens may take with "auto"
RECORD_BYTES = 150  # per image: its record and, roughly, its path


def token_shape_of(config: Config) -> list[int]:
    """[K, D] of a model's image tokens."""
    sizes = model_sizes(config)["image_encoder"]
    height, width = sizes["image_size"]
    leading = sizes.get("registers", 1) if sizes.get("register_tokens", True) else 0  # without registers: a class token
    return [leading + (height // sizes["patch_size"]) * (width // sizes["patch_size"]), sizes["width"]]


def chosen_token_shape(config: Config, num_images: int, wanted: Tokens, index: Path) -> list[int] | None:
    """[K, D] of the tokens to store, or None to store none. Logs the disk space that the index will need.

    "auto" stores them if the model has a second stage and they fit into SHARE_OF_FREE_SPACE.
    Raises: UserError if the index does not fit on the disk.
    """
    shape = token_shape_of(config)
    free = shutil.disk_usage(_existing(index)).free
    token_bytes = num_images * shape[0] * shape[1] * 2  # float16
    other_bytes = num_images * (config.model.embed_dim * 4 + RECORD_BYTES)
    fits = token_bytes <= SHARE_OF_FREE_SPACE * free
    keep = wanted == "yes" or (wanted == "auto" and config.eval.rerank_top_k > 0 and fits)
    needed = other_bytes + (token_bytes if keep else 0)
    logger.info(
        "%d images: vectors and records %s, image tokens %s (%s); %s free",
        num_images,
        _size(other_bytes),
        _size(token_bytes),
        "kept: --tokens no saves them" if keep else "not kept: exact queries encode their candidates again",
        _size(free),
    )
    if needed > free:
        advice = "; --tokens no needs " + _size(other_bytes) if keep else ""
        raise UserError(f"the index needs {_size(needed)} in {index} but {_size(free)} are free{advice}")
    return shape if keep else None


def _existing(path: Path) -> Path:
    """The path itself or its nearest parent folder that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            break
        num_bytes, unit = num_bytes / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{num_bytes:.3g} {unit}"
