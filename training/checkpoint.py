"""Checkpoints of our own: written whole or not at all, in the background; read without running any code in them."""

import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from utils.errors import UserError
from utils.file_kinds import Start, is_safetensors
from utils.pretrained import unpickled, without_wrappers

FORMAT = "mamba-tbps 1"
LAST = "last.pth"
NAMED = ("model", "momentum_encoder")  # the parts of a checkpoint that hold values by the names of parameters


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

    Names of parameters come without the parts that wrappers such as torch.compile add.

    Raises: UnreadableFile (a UserError) if it is cut off, is no checkpoint or holds code; UserError if it does not
        exist, or is of another program.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    content = None if is_safetensors(Start.of(path)) else unpickled(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program; foreign weights go to --init or init.paths")
    named = {key: without_wrappers(content[key]) for key in NAMED if key in content}
    return {**content, **named}


def on_cpu(value: Any, copies: dict[tuple, Tensor] | None = None) -> Any:
    """A copy that training does not change any more: tensors on the CPU and whole, however deep in dicts and lists.

    Tensors that share their memory share it in the copy too. Where parameters are sharded over processes, all of them
    must call it.
    """
    copies = {} if copies is None else copies
    if isinstance(value, dict):
        return {key: on_cpu(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item, copies) for item in value)
    if not isinstance(value, Tensor):
        return value
    if isinstance(value, DTensor):
        return value.full_tensor().detach().to("cpu")
    key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
    if value.numel() == 0 or key not in copies:
        copies[key] = value.detach().to("cpu", copy=True)
    return copies[key]


class CheckpointWriter:
    """Writes a run's checkpoints one after the other in a thread of its own, while training goes on.

        with CheckpointWriter(folder, keep=2) as checkpoints:
            checkpoints.save(on_cpu(content))                    # last.pth
            checkpoints.save(on_cpu(content), "step-000100.pth")  # this one, and last.pth is another name of it

    Leaving the block waits for what is not written yet. Of the step checkpoints the `keep` written last stay; what a
    killed run left half written is removed. enabled=False (processes other than the main one): nothing is written.
    """

    def __init__(self, folder: Path, *, keep: int, enabled: bool = True) -> None:
        self._folder, self._keep, self.enabled = folder, keep, enabled
        self._pending: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        for half in folder.glob("*.pth.tmp") if enabled else ():
            half.unlink()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, content: dict[str, Any], name: str = LAST) -> None:
        """Write content, which must not change any more. Waits while two others are not written yet.

        Raises: UserError if this or an earlier one could not be written; the earlier ones are told of late.
        """
        if self.enabled:
            self.wait(but=1)
            self._pending.append(self._thread.submit(self._write, content, name))

    def wait(self, but: int = 0) -> None:
        """Until all checkpoints but so many are written. Raises: UserError if one could not be."""
        while len(self._pending) > but:
            self._pending.pop(0).result()

    def _write(self, content: dict[str, Any], name: str) -> None:
        save_checkpoint(content, self._folder / name)
        if name.startswith("step-"):
            _give_second_name(self._folder / name, self._folder / LAST)
            written = sorted(self._folder.glob("step-*.pth"), key=lambda path: path.stat().st_mtime_ns)
            for old in written[: -self._keep]:
                old.unlink()


def _give_second_name(path: Path, name: Path) -> None:
    """Make name the same file as path, in one step; a copy of it where the file system knows no second names."""
    temporary = name.with_name(name.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)
