"""An index that other processes may change during a search: it is opened again whenever its manifest changes."""

import threading
from pathlib import Path
from typing import NamedTuple

from gallery.search.calibration import Calibration, calibration_from
from gallery.search.engine import Engine
from gallery.search.engines import open_engine
from gallery.store.manifest import version_of
from gallery.store.store import Store
from utils.errors import UserError


class View(NamedTuple):
    """The index at one moment. A query is answered from one view, whatever changes in the meantime."""

    store: Store
    engine: Engine
    calibration: Calibration | None


class LiveIndex:
    """Gives the current view of an index. Threads may share one.

    Args:
        engine_url: of a Milvus server; None = the engine that the index was made with.
    Raises: UserError if there is no index, if it is damaged, or if the engine cannot be reached.
    """

    def __init__(self, folder: Path, engine_url: str | None = None) -> None:
        self._folder, self._reopening = folder, threading.Lock()
        self._version = version_of(folder)  # taken first, so that a change during opening is noticed later
        store = Store.open(folder)
        self._view = View(store, open_engine(store, engine_url), _calibration(store))

    def now(self) -> View:
        """The view of the latest commit. Raises: UserError if the index is gone or was replaced by another."""
        if version_of(self._folder) != self._version:
            with self._reopening:
                self._reopen()
        return self._view

    def close(self) -> None:
        """Release the engine."""
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
