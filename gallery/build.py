"""What can be done to an index: make it or bring it to the state of a folder, add images, remove images."""

import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from gallery.calibration_file import calibration_beside
from gallery.encode import checked_checkpoint, config_of, stamp_of
from gallery.footprint import Tokens, chosen_token_shape
from gallery.index import open_index
from gallery.manifest import FILE, CheckpointStamp, Manifest, read_manifest
from gallery.scan import Changes, Found, Unreadable, compare, listed, relative, walk
from gallery.store import Store, StoreWriter
from gallery.update import Work, encode_parts, keep_touched
from utils.distributed import Process, gather_objects
from utils.errors import UserError

MOST = 0.5  # share of the images that indexing a folder again may take out unasked


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to index.

    paths: of these images only, relative to the folder `images`; None = all of it.
    prune: also if most of the images are no longer there, or if the folder is another one than before.
    """

    images: Path
    checkpoint: Path
    index: Path
    config: Path | None = None  # of the model, where the checkpoint does not hold it
    paths: Sequence[str] | None = None
    tokens: Tokens = "auto"
    engine: str | None = None
    prune: bool = False


class Report(NamedTuple):
    """What an indexing run did, in images."""

    encoded: int
    touched: int  # same content, another time
    removed: int
    unchanged: int
    kept: int  # could not be looked at, so that nobody knows whether they are still there
    total: int  # in the index now
    unreadable: list[Unreadable]
    seconds: float


def build_index(request: Request, process: Process) -> Report:
    """Make an index, or bring one up to date. Every process of a run must call it; all get the same report.

    Raises: UserError if the index was made with another checkpoint, if another process is changing it, if the disk is
        too small, if there are no images at all, or if more would get lost than was meant, maybe (see Request.prune).
    """
    with ExitStack() as stack:
        writer, task = None, None
        if process.is_main:
            found = walk(request.images) if request.paths is None else listed(request.images, request.paths)
            old = read_manifest(request.index) if (request.index / FILE).exists() else None
            stamp = stamp_of(request.checkpoint, old.checkpoint if old else None)
            writer = stack.enter_context(_writer(request, found, old, stamp))
            excluded = set(writer.store.manifest.excluded)
            wanted = found._replace(images=[image for image in found.images if image.path not in excluded])
            task = _Task(found.unreadable, compare(writer.store, wanted, request.images))
            if not request.prune:
                _check_loss(request, writer.store, found, task.changes)
            _commit_request(request, writer, stamp)
        return _update(request.index, process, writer, task)


def add_images(index: Path, paths: Sequence[str], process: Process, checkpoint: Path | None = None) -> Report:
    """Add images, or folders of them, below the index's root, also such as were removed by hand. Else as build_index.

    checkpoint: where the model is now, if not where it was; it is noted in the index.
    Raises: UserError for a path elsewhere.
    """
    with ExitStack() as stack:
        writer, task = None, None
        if process.is_main:
            writer = stack.enter_context(StoreWriter(index))
            manifest = writer.store.manifest
            stamp = stamp_of(checked_checkpoint(manifest, checkpoint), manifest.checkpoint)
            found = _below(Path(manifest.root), paths)
            names = frozenset(image.path for image in found.images)
            changes = compare(writer.store, found, Path(manifest.root), within=names)
            task = _Task(found.unreadable, changes)
            writer.commit(excluded=[path for path in manifest.excluded if path not in names], checkpoint=stamp)
        return _update(index, process, writer, task)


def remove_images(index: Path, paths: Sequence[str]) -> int:
    """Remove images, or folders of them, for good: indexing the folder again leaves them out. Returns how many.

    Nothing but their names stays, in the list of those to leave out. What indexing took out before is erased as well,
    also where there are no paths.
    Raises: UserError for a path elsewhere, or one that no indexed image has.
    """
    with StoreWriter(index) as writer:
        store, root = writer.store, Path(writer.store.manifest.root)
        images = list(store.images())
        gone: dict[int, str] = {}
        for path in paths:
            name = relative(root, path)
            hits = {key: im.path for key, im in images if not name or im.path == name or im.path.startswith(f"{name}/")}
            if not hits:
                raise UserError(f"{path} is not in the index; nothing was removed")
            gone |= hits
        writer.erase(gone, excluded=sorted({*store.manifest.excluded, *gone.values()}))
        finish(writer)
    return len(gone)


class _Task(NamedTuple):
    """What the main process found out."""

    unreadable: list[Unreadable]
    changes: Changes


def _update(index: Path, process: Process, writer: StoreWriter | None, task: _Task | None) -> Report:
    """writer, task: None in processes other than the main one."""
    begin = time.perf_counter()
    work = None
    if writer is not None and task is not None:
        keep_touched(writer, task.changes)
        work = Work(writer.store.manifest, task.changes.encode)
    shared = gather_objects(work)[0]
    unreadable = encode_parts(index, shared, process, writer)
    report = None
    if writer is not None and task is not None:
        changes = task.changes
        finish(writer)
        report = Report(
            encoded=len(changes.encode) - len(unreadable),
            touched=len(changes.touched),
            removed=len(changes.gone),
            unchanged=changes.unchanged,
            kept=changes.kept,
            total=len(writer.store),
            unreadable=[*task.unreadable, *unreadable],
            seconds=time.perf_counter() - begin,
        )
    return gather_objects(report)[0]


def finish(writer: StoreWriter) -> None:
    """Tidy up what many small changes left, and bring the engine, if there is one, up to date."""
    writer.tidy()
    index = open_index(writer.store)
    index.update(writer.store)
    index.close()


def _below(root: Path, paths: Sequence[str]) -> Found:
    """Images and folders of images, by their paths relative to the root, or absolute."""
    images, unreadable = [], []
    for path in paths:
        name = relative(root, path)
        found = walk(root / name) if (root / name).is_dir() else listed(root, [name])
        prefix = f"{name}/" if name and (root / name).is_dir() else ""
        images += [image._replace(path=f"{prefix}{image.path}") for image in found.images]
        unreadable += [bad._replace(path=str(PurePosixPath(prefix, bad.path))) for bad in found.unreadable]
    return Found(sorted(set(images)), unreadable)


def _writer(request: Request, found: Found, old: Manifest | None, stamp: CheckpointStamp) -> StoreWriter:
    """Open the index for writing, or make an empty one."""
    if old is None:
        if not found.images:
            raise UserError(f"no images (jpg, jpeg, png, webp) below {request.images}")
        return StoreWriter(request.index, _new_manifest(request, stamp, len(found.images)))
    if stamp.sha256 != old.checkpoint.sha256:
        raise UserError(
            f"{request.index} was made with another checkpoint ({old.checkpoint.path}, {old.checkpoint.sha256[:8]}) "
            f"than {request.checkpoint} ({stamp.sha256[:8]}), and their vectors do not compare: give another --index, "
            "or delete this one"
        )
    if request.tokens != "auto" and (request.tokens == "yes") != (old.token_shape is not None):
        kept = "keeps" if old.token_shape else "does not keep"
        raise UserError(f"{request.index} {kept} image tokens; that is chosen once: delete it to choose anew")
    if not request.prune and old.root != str(request.images.resolve()):
        raise UserError(
            f"{request.index} is of the folder {old.root}, not of {request.images.resolve()}, whose images would take "
            "the place of those: give another --index, or --prune as well if that is what you want (the folder moved)"
        )
    return StoreWriter(request.index)


def _check_loss(request: Request, store: Store, found: Found, changes: Changes) -> None:
    """Raises: UserError where it looks as if the pictures were out of reach rather than deleted."""
    if len(store) and not found.images:
        what = f"no image was found below {request.images}, and {request.index} has {len(store)}"
    elif len(changes.gone) > MOST * len(store):
        what = f"{len(changes.gone)} of the {len(store)} images of {request.index} are not found any more"
    else:
        return
    raise UserError(f"{what}: is the disk there? Nothing was changed; --prune takes them out")


def _commit_request(request: Request, writer: StoreWriter, stamp: CheckpointStamp) -> None:
    """Note in the index what may differ from one run to the next."""
    manifest = writer.store.manifest
    changes: dict[str, Any] = {"root": str(request.images.resolve()), "checkpoint": stamp}
    if request.engine is not None:
        changes["engine"] = request.engine
    calibration = calibration_beside(request.checkpoint, stamp.sha256)
    if calibration is not None:
        changes["calibration"] = calibration
    if any(getattr(manifest, name) != value for name, value in changes.items()):
        writer.commit(**changes)


def _new_manifest(request: Request, stamp: CheckpointStamp, num_images: int) -> Manifest:
    config = config_of(request.checkpoint, request.config)
    return Manifest(
        name=secrets.token_hex(8),
        root=str(request.images.resolve()),
        checkpoint=stamp,
        config=config.as_dict(),
        width=config.model.embed_dim,
        token_shape=chosen_token_shape(config, num_images, request.tokens, request.index),
        engine=request.engine,
        calibration=calibration_beside(request.checkpoint, stamp.sha256),
    )
