"""The changes of an index that encode images: make it or update it from a folder, add images."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gallery.encoding.checkpoints import checked_checkpoint, stamp_of
from gallery.footage.origin import Origin
from gallery.footage.table import read_table
from gallery.indexing.encode_parts import Work, commit_unencoded, encode_parts
from gallery.indexing.removal import finish, finish_deleting
from gallery.indexing.request import IndexingRequest, check_loss, commit_request, open_writer
from gallery.indexing.scan import Changes, Found, Unreadable, compare, listed, relative, walk
from gallery.store.manifest import FILE, read_manifest
from gallery.store.writer import StoreWriter
from utils.distributed import Process, gather_objects


class IndexingReport(NamedTuple):
    """What a run did, as numbers of images."""

    encoded: int
    touched: int  # only the file's time or the origin has changed
    removed: int
    unchanged: int
    kept: int  # could not be checked, so they stay in the index
    left_out: int  # were removed or forgotten, and are still in the folder
    total: int  # in the index now
    unreadable: list[Unreadable]
    other_kinds: Counter[str]  # by suffix: pictures of kinds that are not read
    seconds: float


def build_index(request: IndexingRequest, process: Process) -> IndexingReport:
    """Make an index, or update it. Every process of a run must call this; all of them get the same report.

    Raises: UserError if the index was made with another checkpoint, if another process is changing it, if the disk is
        too small, if there are no images, or if the run would remove most of the index (see IndexingRequest.prune).
    """
    with ExitStack() as stack:
        writer, task = None, None
        if process.is_main:
            finish_deleting(request.index)
            found = walk(request.images) if request.paths is None else listed(request.images, request.paths)
            old = read_manifest(request.index) if (request.index / FILE).exists() else None
            stamp = stamp_of(request.checkpoint, old.checkpoint if old else None)
            writer = stack.enter_context(open_writer(request, found, old, stamp))
            excluded = set(writer.store.manifest.excluded)
            wanted = found._replace(images=[image for image in found.images if image.path not in excluded])
            origins = read_table(request.images)
            changes = compare(writer.store, wanted, request.images, origins=origins)
            left_out = len(found.images) - len(wanted.images)
            task = _Task(found.unreadable, found.other_kinds, changes, origins, left_out)
            if not request.prune:
                check_loss(request, writer.store, found, task.changes, origins)
            commit_request(request, writer, stamp)
        return _update(request.index, process, writer, task)


def add_images(index: Path, paths: Sequence[str], process: Process, checkpoint: Path | None = None) -> IndexingReport:
    """Add images, or folders of images, below the index's root, including those that were removed by hand.

    Every process of a run must call this; all of them get the same report.

    checkpoint: where the model is now, if it was moved; the index remembers it.
    Raises: UserError for a path that is not below the root, and as `build_index`.
    """
    with ExitStack() as stack:
        writer, task = None, None
        if process.is_main:
            finish_deleting(index)
            writer = stack.enter_context(StoreWriter(index))
            manifest = writer.store.manifest
            stamp = stamp_of(checked_checkpoint(manifest, checkpoint), manifest.checkpoint)
            found = _below(Path(manifest.root), paths)
            names = frozenset(image.path for image in found.images)
            origins = read_table(Path(manifest.root), wanted=names)
            changes = compare(writer.store, found, Path(manifest.root), origins=origins, within=names)
            task = _Task(found.unreadable, found.other_kinds, changes, origins)
            writer.commit(excluded=[path for path in manifest.excluded if path not in names], checkpoint=stamp)
        return _update(index, process, writer, task)


class _Task(NamedTuple):
    """What the main process found."""

    unreadable: list[Unreadable]
    other_kinds: Counter[str]
    changes: Changes
    origins: dict[str, Origin]  # by path, where the folder's table names the image
    left_out: int = 0


def _update(index: Path, process: Process, writer: StoreWriter | None, task: _Task | None) -> IndexingReport:
    """Carry out a task. writer, task: None except on the main process."""
    begin = time.perf_counter()
    work = None
    if writer is not None and task is not None:
        commit_unencoded(writer, task.changes, task.origins)
        encode = task.changes.encode
        origins = {path: task.origins[path] for path in encode if path in task.origins}
        work = Work(writer.store.manifest, encode, origins)
    shared = gather_objects(work)[0]
    unreadable = encode_parts(index, shared, process, writer)
    report = None
    if writer is not None and task is not None:
        changes = task.changes
        finish(writer)
        report = IndexingReport(
            encoded=len(changes.encode) - len(unreadable),
            touched=len(changes.touched),
            removed=len(changes.gone),
            unchanged=changes.unchanged,
            kept=changes.kept,
            left_out=task.left_out,
            total=len(writer.store),
            unreadable=[*task.unreadable, *unreadable],
            other_kinds=task.other_kinds,
            seconds=time.perf_counter() - begin,
        )
    return gather_objects(report)[0]


def _below(root: Path, paths: Sequence[str]) -> Found:
    """The images at these paths, and those in these folders; paths are relative to the root, or absolute."""
    images, unreadable, other = [], [], Counter[str]()
    for path in paths:
        name = relative(root, path)
        found = walk(root / name) if (root / name).is_dir() else listed(root, [name])
        prefix = f"{name}/" if name and (root / name).is_dir() else ""
        images += [image._replace(path=f"{prefix}{image.path}") for image in found.images]
        unreadable += [bad._replace(path=str(PurePosixPath(prefix, bad.path))) for bad in found.unreadable]
        other += found.other_kinds
    return Found(sorted(set(images)), unreadable, other)
