"""What an index takes on disk, said before it is built, and whether the images' tokens are kept in it.

The second stage looks at the tokens of the first stage's candidates: K tokens of width D per image, 302 kB for Vim-B at
224 px against 1 kB for a vector. Without them, the candidates' files are encoded again at every query.
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

SHARE_OF_FREE_SPACE = 0.25  # that tokens may take with "auto"
RECORD_BYTES = 150  # per image: its record and, roughly, its path


def token_shape_of(config: Config) -> list[int]:
    """Number of an image's tokens and their width."""
    sizes = model_sizes(config)["image_encoder"]
    height, width = sizes["image_size"]
    return [1 + (height // sizes["patch_size"]) * (width // sizes["patch_size"]), sizes["width"]]


def chosen_token_shape(config: Config, num_images: int, wanted: Tokens, index: Path) -> list[int] | None:
    """Shape of the tokens to keep, None for none; says what the index will take.

    "auto" keeps them where the model has a second stage and they fit into a part of the free space.
    Raises: UserError if what is wanted does not fit.
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
    """The nearest folder around a path that is there already."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            break
        num_bytes, unit = num_bytes / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{num_bytes:.3g} {unit}"
