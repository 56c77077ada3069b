"""The folder of a run: config.yaml (merged), versions.json, log.jsonl (one line per epoch), tensorboard/.

Only the main process writes. Files are replaced in one step, so a crash or a full disk leaves the old ones whole.
"""

import json
import math
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from training.checkpoint import LAST
from utils.config import Config, save_config
from utils.errors import UserError
from utils.files import replacing, save_json
from utils.log import set_up_logging

_PACKAGES = ("torch", "torchvision", "transformers", "timm", "numpy", "mamba-ssm", "triton")


def checkpoint_to_resume(folder: Path, given: str | None) -> Path | None:
    """What a run continues from; None = it starts anew. Processes started again by torchrun (--max-restarts, or another
    machine takes part) have the same arguments; for them what the run has saved by now comes first.

    given: of --resume: a path, "" = folder/last.pth, "auto" = that or a new run; None = the option is not there.
    """
    last = folder / LAST
    if last.exists() and (given == "auto" or _same_launch(folder)):
        return last
    return None if given in (None, "auto") else Path(given or last)


def open_run_folder(folder: Path | None, config: Config, *, is_main: bool, resumed: Path | None) -> None:
    """Make the folder, if any, start the log. resumed: the checkpoint that the run continues from, None = a new run.

    Raises: UserError rather than mix a run with another one.
    """
    is_own = resumed is not None and folder is not None and resumed.resolve().parent == folder.resolve()
    if folder and (folder / LAST).exists() and not is_own:
        raise UserError(f"{folder} already holds a run: continue it with --resume, or name another folder by --output")
    if folder and is_main:
        create_run_folder(folder, config)
    set_up_logging(folder, is_main=is_main)


def create_run_folder(folder: Path, config: Config) -> None:
    """Make the folder and write config.yaml and versions.json; what other files it holds stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as path:
        save_config(config, path)
    save_json(folder / "versions.json", {**versions(), "seed": config.train.seed})


def versions() -> dict[str, Any]:
    """What this run runs on: versions (null = not installed), machine, command line, commit (null = no repository)."""
    return {
        "python": platform.python_version(),
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "command": sys.argv,
        "launch": _launch(),
        "commit": _commit(Path(__file__).resolve().parents[1]),
    }


def _launch() -> str | None:
    """What torchrun calls this launch, restarts included; null without it."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def _same_launch(folder: Path) -> bool:
    """Whether the run in folder is that of these processes, started before."""
    launch, path = _launch(), folder / "versions.json"
    if launch is None or not path.exists():
        return False
    named = launch != "none"  # with a fixed address torchrun has no name for a launch; the count of restarts stands in
    restarted = named or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return restarted and json.loads(path.read_text(encoding="utf-8")).get("launch") == launch


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """Commit of the source, with "-dirty" behind it where tracked files were changed."""
    if not (root / ".git").exists():  # git would look for a repository further up
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


class MetricsLog:
    """log.jsonl, TensorBoard, and Weights & Biases of a run; `with MetricsLog(...) as log` closes it.

    first_epoch, first_step: where the run starts, > 0 after a resume. What an earlier run logged from there on is cut,
    so that a resumed run leaves the same log as one that was never stopped. enabled=False (processes other than the
    main one): every call does nothing. wandb: the configuration to show there, None = do not use it.

    Raises: UserError if wandb is asked for and not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first_epoch: int = 0,
        first_step: int = 0,
        enabled: bool = True,
        wandb: dict[str, Any] | None = None,
    ) -> None:
        self._path = folder / "log.jsonl"
        self._writer: SummaryWriter | None = None
        self._wandb: Any = None
        if enabled:
            self._cut(first_epoch)
            if wandb is not None:
                self._wandb = _start_wandb(folder, wandb)
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut(self, first_epoch: int) -> None:
        """Keep the lines of epochs before first_epoch; a line cut off by a crash goes as well."""
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["epoch"] < first_epoch]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write_epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Append one line: epoch (from 0) and values, numbers that JSON lacks (nan, inf) as null."""
        if self._writer is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"epoch": epoch, **{key: _json_number(value) for key, value in values.items()}}) + "\n"
            )

    def write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """TensorBoard scalars at an optimiser step; a key is a name such as train/itc."""
        if self._writer is None:
            return
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def write_image(self, name: str, image: Tensor, step: int) -> None:
        """A picture (3, H, W) uint8 for TensorBoard."""
        if self._writer is not None:
            self._writer.add_image(name, image, step)

    def write_text(self, name: str, text: str, step: int) -> None:
        """Markdown for TensorBoard."""
        if self._writer is not None:
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(folder: Path, config: dict[str, Any]) -> Any:
    """A run of Weights & Biases that copies what TensorBoard gets; to be called before TensorBoard's writer is made.

    A resumed run goes on with its own, which its folder's name identifies.
    """
    try:
        import wandb  # an optional package, and a slow one to import
    except ImportError as error:
        raise UserError("--wandb needs the package wandb: pip install wandb, or leave the option out") from error
    name = folder.resolve().name
    return wandb.init(
        project="mamba-tbps",
        id=f"{name}-{zlib.crc32(str(folder.resolve()).encode()):08x}",
        name=name,
        dir=str(folder),
        config=config,
        resume="allow",
        sync_tensorboard=True,
    )


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
