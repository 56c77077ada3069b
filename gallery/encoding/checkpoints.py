"""The checkpoint behind an index: its configuration, and whether it still holds the same weights."""

import hashlib
from pathlib import Path

from gallery.store.manifest import CheckpointStamp, Manifest
from training.checkpoint import load_checkpoint
from utils.config import Config, load_config, stored_config
from utils.errors import UserError
from utils.pretrained import UnreadableFile

BYTES_AT_A_TIME = 2**24


def config_of(checkpoint: Path, config_path: Path | None = None) -> Config:
    """The configuration of a checkpoint: config_path if given, else its own, else the config.yaml beside it.

    Raises: UserError if there is none, or if the checkpoint cannot be read.
    """
    if config_path is not None:
        return load_config(config_path)
    beside = checkpoint.parent / "config.yaml"
    try:
        stored = load_checkpoint(checkpoint).get("config")
    except UnreadableFile:
        raise
    except UserError:
        if not checkpoint.is_file():
            raise
        stored = None  # not one of ours; initialise() reads such files, or says what is wrong
    if stored is not None:
        return stored_config(stored, str(checkpoint))
    if not beside.is_file():
        raise UserError(f"{checkpoint} does not hold its configuration: give it by --config FILE")
    return load_config(beside)


def stamp_of(checkpoint: Path, known: CheckpointStamp | None = None) -> CheckpointStamp:
    """Path, hash, size and time of a checkpoint. Returns `known`, without hashing, if the file has not changed since.

    Raises: UserError if there is no such file.
    """
    if not checkpoint.is_file():
        raise UserError(f"checkpoint {checkpoint} does not exist; it is the best.pth of a run, say")
    status = checkpoint.stat()
    path, size, mtime_ns = str(checkpoint.resolve()), status.st_size, status.st_mtime_ns
    if known is not None and (path, size, mtime_ns) == (known.path, known.size, known.mtime_ns):
        return known
    return CheckpointStamp(path=path, sha256=_sha256(checkpoint), size=size, mtime_ns=mtime_ns)


def checked_checkpoint(manifest: Manifest, given: Path | None = None) -> Path:
    """Path of the checkpoint that an index was made with: `given`, or else the path in the manifest.

    Raises: UserError if the file does not exist or holds other weights.
    """
    path = given or Path(manifest.checkpoint.path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist (any more); say where it is now: --checkpoint FILE")
    if stamp_of(path, manifest.checkpoint).sha256 != manifest.checkpoint.sha256:
        raise UserError(f"checkpoint {path} is another one than this index was made with; index into a new folder")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(BYTES_AT_A_TIME):
            digest.update(part)
    return digest.hexdigest()
