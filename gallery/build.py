"""What can be done to an index: make it or bring it to the state of a folder, add images, remove images."""

import secrets
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gallery.calibration_file import calibration_beside
from gallery.encode import config_of, stamp_of
from gallery.footprint import Tokens, chosen_token_shape
from gallery.index import open_index
from gallery.manifest import FILE, Manifest, read_manifest
from gallery.scan import Found, Unreadable, compare, listed, relative, walk
from gallery.store import StoreWriter
from gallery.update import Work, encode_parts, keep_touched
from utils.distributed import Process, gather_objects
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to index. paths: of these images only, relative to the folder `images`; None = all of it."""

    images: Path
    checkpoint: Path
    index: Path
    config: Path | None = None  # of the model, where the checkpoint does not hold it
    paths: Sequence[str] | None = None
    tokens: Tokens = "auto"
    engine: str | None = None


class Report(NamedTuple):
    """What an indexing run did, in images."""

    encoded: int
    touched: int  # same content, another time
    removed: int
    unchanged: int
    total: int  # in the index now
    unreadable: list[Unreadable]
    seconds: float


def build_index(request: Request, process: Process) -> Report:
    """Make an index, or bring one up to date. Every process of a run must call it; all get the same report.

    Raises: UserError if the index was made with another checkpoint, if another process is changing it, if the disk is
        too small, or if there are no images at all.
    """
    with ExitStack() as stack:
        writer, found = None, None
        if process.is_main:
            found = walk(request.images) if request.paths is None else listed(request.images, request.paths)
            writer = stack.enter_context(_writer(request, found))
            excluded = set(writer.store.manifest.excluded)
            found = found._replace(images=[image for image in found.images if image.path not in excluded])
        return _update(request.index, process, writer, found)


def add_images(index: Path, paths: Sequence[str], process: Process) -> Report:
    """Add images, or folders of them, below the index's root, also such as were removed by hand. Else as build_index.

    Raises: UserError for a path elsewhere.
    """
    with ExitStack() as stack:
        writer, found, names = None, None, None
        if process.is_main:
            writer = stack.enter_context(StoreWriter(index))
            manifest = writer.store.manifest
            found = _below(Path(manifest.root), paths)
            names = frozenset(image.path for image in found.images)
            writer.commit(excluded=[path for path in manifest.excluded if path not in names])
        return _update(index, process, writer, found, within=names)


def remove_images(index: Path, paths: Sequence[str]) -> int:
    """Remove images, or folders of them, for good: indexing the folder again leaves them out. Returns how many.

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
        writer.commit(removed=gone, excluded=sorted({*store.manifest.excluded, *gone.values()}))
        finish(writer)
    return len(gone)


def _update(
    index: Path,
    process: Process,
    writer: StoreWriter | None,
    found: Found | None,
    within: frozenset[str] | None = None,
) -> Report:
    """writer, found, within: None in processes other than the main one."""
    begin = time.perf_counter()
    work, changes = None, None
    if writer is not None and found is not None:
        root = Path(writer.store.manifest.root)
        changes = compare(writer.store, found, root, within=within)
        keep_touched(writer, changes)
        work = Work(writer.store.manifest, changes.encode)
    shared = gather_objects(work)[0]
    unreadable = encode_parts(index, shared, process, writer)
    report = None
    if writer is not None and found is not None and changes is not None:
        finish(writer)
        report = Report(
            encoded=len(changes.encode) - len(unreadable),
            touched=len(changes.touched),
            removed=len(changes.gone),
            unchanged=changes.unchanged,
            total=len(writer.store),
            unreadable=[*found.unreadable, *unreadable],
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
        unreadable += [bad._replace(path=f"{prefix}{bad.path}") for bad in found.unreadable]
    return Found(sorted(set(images)), unreadable)


def _writer(request: Request, found: Found) -> StoreWriter:
    """Open the index for writing, or make an empty one."""
    if not (request.index / FILE).exists():
        if not found.images:
            raise UserError(f"no images (jpg, jpeg, png, webp) below {request.images}")
        return StoreWriter(request.index, _new_manifest(request, len(found.images)))
    old = read_manifest(request.index)
    stamp = stamp_of(request.checkpoint, old.checkpoint)
    if stamp.sha256 != old.checkpoint.sha256:
        raise UserError(
            f"{request.index} was made with another checkpoint ({old.checkpoint.path}, {old.checkpoint.sha256[:8]}) "
            f"than {request.checkpoint} ({stamp.sha256[:8]}), and their vectors do not compare: give another --index, "
            "or delete this one"
        )
    if request.tokens != "auto" and (request.tokens == "yes") != (old.token_shape is not None):
        kept = "keeps" if old.token_shape else "does not keep"
        raise UserError(f"{request.index} {kept} image tokens; that is chosen once: delete it to choose anew")
    writer = StoreWriter(request.index)
    changes: dict[str, Any] = {"root": str(request.images.resolve()), "checkpoint": stamp}
    if request.engine is not None:
        changes["engine"] = request.engine
    calibration = calibration_beside(request.checkpoint, stamp.sha256)
    if calibration is not None:
        changes["calibration"] = calibration
    if any(getattr(writer.store.manifest, name) != value for name, value in changes.items()):
        writer.commit(**changes)
    return writer


def _new_manifest(request: Request, num_images: int) -> Manifest:
    config = config_of(request.checkpoint, request.config)
    stamp = stamp_of(request.checkpoint)
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
