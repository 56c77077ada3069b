"""Taking images out of an index for good: by their paths, or all that are older than a date. Imports no torch.

`forget_before` may delete the files of the crops as well. The commit that takes out the rows also notes these files
(`to_delete` in the manifest); then they are deleted. After a kill in between, the next change of the index goes on.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from gallery.footage import table
from gallery.footage.ledger import FILE as LEDGER
from gallery.footage.ledger import Ledger
from gallery.indexing.scan import relative
from gallery.search.engines import open_engine
from gallery.search.filters import Filter
from gallery.store.manifest import FILE, read_manifest
from gallery.store.store import KEYS_PER_SEGMENT, Store
from gallery.store.writer import StoreWriter
from utils.errors import UserError


class Forgotten(NamedTuple):
    """What `forget_before` did."""

    images: int  # taken out of the index
    files: int  # deleted
    without_clock: int  # images that are still in the index and whose time is not known
    total: int  # images in the index now


def remove_images(index: Path, paths: Sequence[str]) -> int:
    """Remove images, or folders of images, for good. Returns how many.

    Nothing of them stays on disk except their paths, in the list of images that indexing the folder leaves out. This
    also erases what earlier runs only marked as removed, even if `paths` is empty.
    Raises: UserError for a path that is not below the root, or that no indexed image has.
    """
    finish_deleting(index)
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
        writer.erase(gone, excluded=_also_excluded(store, gone.values()))
        finish(writer)
    return len(gone)


def forget_before(index: Path, before: datetime, *, crops: bool) -> Forgotten:
    """Remove the images that were taken before a time of day, the camera's local time, for good.

    crops: delete their files too, and all other files of such crops that the folder's table names. Otherwise the files
        stay, and their paths in the list of images that indexing the folder leaves out.
    Raises: UserError if another process changes the index or crops into the folder, or if the folder is not there.
    """
    finish_deleting(index)
    where = Filter(before=before)
    with StoreWriter(index) as writer:
        store, root = writer.store, Path(writer.store.manifest.root)
        gone = {key: store.image(key).path for key in _older(store, where)}
        files: list[str] = []
        if crops:
            if not root.is_dir():
                raise UserError(f"{root} is not there, so that no file in it can be deleted; nothing was forgotten")
            with _ledger_of(root) as ledger:  # locked before anything is changed: a run may be cropping into the folder
                files = sorted({*gone.values(), *_older_crops(root, before)})
                writer.erase(gone, to_delete=files)
                _delete_files(writer, ledger)
        else:
            writer.erase(gone, excluded=_also_excluded(store, gone.values()))
        finish(writer)
        known = Filter(after=datetime.min).count(writer.store)
        return Forgotten(len(gone), len(files), len(writer.store) - known, len(writer.store))


def finish_deleting(index: Path) -> None:
    """Delete the files that a killed `forget_before` noted, if there are any."""
    if (index / FILE).exists() and read_manifest(index).to_delete:
        with StoreWriter(index) as writer, _ledger_of(Path(writer.store.manifest.root)) as ledger:
            _delete_files(writer, ledger)


def finish(writer: StoreWriter) -> None:
    """Merge small segments and bring the engine up to date."""
    writer.tidy()
    engine = open_engine(writer.store)
    engine.update(writer.store)
    engine.close()


def _older(store: Store, where: Filter) -> list[int]:
    """Keys of the live rows that pass."""
    keys: list[int] = []
    for serial, segment in store.segments.items():
        rows = segment.live[where.rows(segment)[segment.live]]
        keys += (serial * KEYS_PER_SEGMENT + rows).tolist()
    return keys


def _older_crops(root: Path, before: datetime) -> Iterator[str]:
    """Paths in the folder's table, of crops from before a time. Raises: UserError for one that leads out of it."""
    for path, origin in table.read_rows(root / table.FILE):
        if origin.clock is not None and origin.clock < before:
            yield relative(root, path)


def _ledger_of(root: Path) -> AbstractContextManager[Ledger | None]:
    """The ledger of a folder of crops, None if it has none. Raises: UserError if a run crops into the folder."""
    return Ledger(root) if (root / LEDGER).exists() else nullcontext()


def _delete_files(writer: StoreWriter, ledger: Ledger | None) -> None:
    """Delete the files that the manifest notes, and their rows in the folder's table. Repeating it changes nothing."""
    manifest = writer.store.manifest
    root, paths = Path(manifest.root), manifest.to_delete
    if ledger is not None:
        ledger.delete(paths)
        ledger.write_table()
    else:
        for path in paths:
            (root / path).unlink(missing_ok=True)
        if (root / table.FILE).exists():
            gone = set(paths)
            kept = (crop for crop in table.read_rows(root / table.FILE) if crop.image not in gone)
            table.write_rows(root / table.FILE, kept)
    writer.commit(to_delete=[])


def _also_excluded(store: Store, paths: Iterable[str]) -> list[str]:
    return sorted({*store.manifest.excluded, *paths})
