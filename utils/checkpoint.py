"""Checkpoints of our own: written whole or not at all, read back without running any code in them."""

import os
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

FORMAT = "mamba-tbps 1"


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write tensors and plain values; an older file at path stays until the new one is complete on disk.

    Raises: UserError if it cannot be written (disk full, no permission).
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(f"cannot write checkpoint {path} ({reason}); what was saved before is untouched") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU.

    Raises: UserError if it does not exist, is cut off, or is of another program.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for a file that is cut off, no pickle, or one with code
        raise UserError(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program; foreign weights go to --init or init.paths")
    return content
