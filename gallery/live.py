"""An index that other processes may change while it is searched: opened again when its manifest is another one."""

import threading
from pathlib import Path
from typing import NamedTuple

from gallery.calibration_file import Calibration, calibration_from
from gallery.index import VectorIndex, open_index
from gallery.manifest import version_of
from gallery.store import Store
from utils.errors import UserError


class View(NamedTuple):
    """The index at one moment; a question is answered from one view, whatever happens meanwhile."""

    store: Store
    engine: VectorIndex
    calibration: Calibration | None


class LiveIndex:
    """Threads may share one.

    Args:
        engine: URL of a Milvus server; None = the one that the index was made with.
    Raises: UserError if there is no index, or a damaged one, or if the engine cannot be reached.
    """

    def __init__(self, folder: Path, engine: str | None = None) -> None:
        self._folder, self._reopening = folder, threading.Lock()
        self._version = version_of(folder)  # before it is opened: a change meanwhile is noticed later
        store = Store.open(folder)
        self._view = View(store, open_index(store, engine), _calibration(store))

    def now(self) -> View:
        """Raises: UserError if the index is gone, or another one was made in its place."""
        if version_of(self._folder) != self._version:
            with self._reopening:
                self._reopen()
        return self._view

    def close(self) -> None:
        """Let go of the engine."""
        self._view.engine.close()

    def _reopen(self) -> None:
        version = version_of(self._folder)
        if version == self._version:  # another thread was faster
            return
        store, old = Store.open(self._folder), self._view
        if store.manifest.name != old.store.manifest.name:
            raise UserError(f"{self._folder} was made anew, maybe by another model: start this program again")
        self._view = View(store, old.engine.following(store), _calibration(store))
        self._version = version


def _calibration(store: Store) -> Calibration | None:
    return calibration_from(store.manifest.calibration) if store.manifest.calibration else None
