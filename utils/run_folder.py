"""The folder of a run: config.yaml (merged), versions.json, log.jsonl (one line per epoch), tensorboard/.

Only the main process writes. Files are replaced in one step, so a crash or a full disk leaves the old ones whole.
"""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from utils.config import Config, save_config

_PACKAGES = ("torch", "torchvision", "transformers", "timm", "numpy", "mamba-ssm", "triton")


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
        "commit": _commit(Path(__file__).resolve().parents[1]),
    }


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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes its place at the end, or nothing does."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name with empty content
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_json(path: Path, data: Any) -> None:
    """Write data as JSON in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class MetricsLog:
    """log.jsonl and TensorBoard scalars of a run.

    first_epoch, first_step: where the run starts, > 0 after a resume. What an earlier run logged from there on is cut,
    so that a resumed run leaves the same log as one that was never stopped. enabled=False (processes other than the
    main one): every call does nothing.
    """

    def __init__(self, folder: Path, *, first_epoch: int = 0, first_step: int = 0, enabled: bool = True) -> None:
        self._path = folder / "log.jsonl"
        self._writer: SummaryWriter | None = None
        if enabled:
            self._cut(first_epoch)
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

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

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
