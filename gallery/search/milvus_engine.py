"""A copy of the vectors in Milvus, for galleries that outgrow one machine. Optional: requirements-milvus.txt.

Each index has one collection, named after it, of type FLAT: the exact inner product, as with FAISS. Its columns are
what filters ask for; the rest of a row's origin is in the store alone. Reads are strongly consistent, so a search finds
whatever Milvus has acknowledged. The file engine.json beside the manifest records what Milvus has acknowledged. An
interrupted update is repeated from there; repeating a step changes nothing. Without the file the content of the
collection is unknown, and the next update creates it again. The environment variable MILVUS_TOKEN ("user:password" or a
key) logs in.
"""

import copy
import json
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np

from gallery.footage.origin import Origin
from gallery.search.engine import Neighbours
from gallery.search.filters import Filter, box_height
from gallery.store.durable import replace_json
from gallery.store.origins import NOTHING, clock_ms
from gallery.store.store import KEYS_PER_SEGMENT, Store
from utils.errors import UserError
from utils.log import progress

STATE_FILE = "engine.json"
ROWS_PER_CALL = 1000  # a call may carry 64 MB
LONGEST_SOURCE = 4096  # bytes, as long as a path may be
NO_HEIGHT = -1.0

State = dict[int, list[int]]  # removed rows by the serial of every segment


class MilvusEngine:
    """Raises: UserError if pymilvus is not installed, or the server cannot be reached or refuses something."""

    def __init__(self, url: str, store: Store) -> None:
        try:
            from pymilvus import MilvusClient  # an optional package
            from pymilvus.exceptions import MilvusException
        except ImportError:
            raise UserError("engine: pymilvus is missing; pip install -r requirements-milvus.txt") from None
        self._url, self._collection, self._error = url, f"mamba_tbps_{store.manifest.name}", MilvusException
        self._store, self._path = store, store.folder / STATE_FILE
        self._state: State | None = None  # content of engine.json when it had the version self._seen
        self._seen: tuple[int, int] | None = None
        self._was_in_step = False
        try:
            self._client = MilvusClient(uri=url, token=os.environ.get("MILVUS_TOKEN", ""))
            if self._client.has_collection(self._collection):
                self._client.load_collection(self._collection)
        except Exception as error:  # the client raises many types if an address does not answer
            raise UserError(f"engine {url}: {_first_line(error)}") from None

    def search(self, queries: np.ndarray, k: int, where: Filter | None = None) -> Neighbours:
        """Raises: UserError if Milvus lacks rows of the store.

        While another process is adding images, those that Milvus does not hold yet are not found.
        """
        if len(queries) == 0 or k < 1:
            raise ValueError(f"expected at least one query and k >= 1, got {len(queries)} and {k}")
        lag = self._lag()
        k = min(k, len(self._store) if where is None else where.count(self._store))
        if k == 0:
            return Neighbours(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64))
        try:
            found = self._client.search(
                self._collection,
                data=np.asarray(queries, np.float32).tolist(),
                filter="" if where is None else _expression(where, self._store),
                limit=k + (lag or 0),
                search_params={"metric_type": "IP"},
                output_fields=["key"],
                consistency_level="Strong",
            )
        except self._error as error:
            raise UserError(f"engine {self._url}: {_first_line(error)}") from None
        if lag is None and any(len(hits) != k for hits in found):
            raise UserError(
                f"engine {self._url} has lost rows of this index: delete {self._collection} there, index again"
            )
        # Another process may have changed Milvus since the store was opened: drop unknown keys.
        known = [[(-hit["distance"], hit["key"]) for hit in hits if hit["key"] in self._store] for hits in found]
        width = min([k, *map(len, known)])
        ordered = np.array([sorted(hits)[:width] for hits in known], dtype=[("distance", "f4"), ("key", "i8")])
        return Neighbours(-ordered["distance"], ordered["key"])

    def following(self, store: Store) -> "MilvusEngine":
        other = copy.copy(self)
        other._store = store
        return other

    def update(self, store: Store) -> None:
        """Raises: UserError if Milvus refuses something; engine.json keeps what it acknowledged before."""
        self._store = store
        acknowledged = self._read_state()
        try:
            there = self._client.has_collection(self._collection)
            if there and store.sources and not self._has_columns():
                acknowledged = None  # made when no row had an origin
            if there and acknowledged is None:
                self._client.drop_collection(self._collection)
            if not there or acknowledged is None:
                self._create(store.manifest.width)
                acknowledged = {}
                self._write_state(acknowledged)
            for serial in set(acknowledged) - set(store.segments):
                first = serial * KEYS_PER_SEGMENT
                self._client.delete(self._collection, filter=f"key >= {first} and key < {first + KEYS_PER_SEGMENT}")
                del acknowledged[serial]
                self._write_state(acknowledged)
            for serial in progress(sorted(store.segments), "copy to Milvus", "segments"):
                self._update_segment(serial, acknowledged.get(serial))
                acknowledged[serial] = store.segments[serial].entry.removed
                self._write_state(acknowledged)
            self._client.flush(self._collection)
        except self._error as error:
            raise UserError(f"engine {self._url}: {_first_line(error)}") from None

    def _lag(self) -> int | None:
        """None = Milvus holds exactly the rows of the store. Else: how many removed rows it may still hold.

        Reads engine.json again only if it has changed.
        Raises: UserError if rows are missing, unless they belong to segments that are newer than the last search of
            this process that found Milvus complete.
        """
        seen = _version(self._path)
        if seen != self._seen or seen is None:
            self._state, self._seen = self._read_state(), seen
        wanted: State = {serial: segment.entry.removed for serial, segment in self._store.segments.items()}
        if self._state == wanted:
            self._was_in_step = True
            return None
        if self._state and self._was_in_step and self._state.keys() <= wanted.keys():
            return sum(max(0, len(wanted[serial]) - len(rows)) for serial, rows in self._state.items())
        raise UserError(f"engine {self._url} is behind this index: run search.py index again, or wait for it to end")

    def _create(self, width: int) -> None:
        from pymilvus import DataType  # an optional package

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        schema.add_field("source", DataType.VARCHAR, max_length=LONGEST_SOURCE)
        schema.add_field("clock_ms", DataType.INT64)
        schema.add_field("height", DataType.DOUBLE)
        flat = self._client.prepare_index_params()
        flat.add_index("vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(self._collection, schema=schema, index_params=flat)

    def _has_columns(self) -> bool:
        """Whether the collection has the columns that filters need."""
        fields = {field["name"] for field in self._client.describe_collection(self._collection)["fields"]}
        return {"source", "clock_ms", "height"} <= fields

    def _update_segment(self, serial: int, acknowledged: list[int] | None) -> None:
        """acknowledged: removed rows that Milvus has deleted; None = it may hold any of the segment."""
        first, segment = serial * KEYS_PER_SEGMENT, self._store.segments[serial]
        if acknowledged is None:
            columns = self._has_columns()
            for keys in _parts(segment.live + first):
                vectors = [{"key": key, "vector": self._store.vector(key).tolist()} for key in keys]
                rows = [row | _columns(self._store.origin(row["key"])) for row in vectors] if columns else vectors
                self._client.upsert(self._collection, data=rows)
        for keys in _parts(np.setdiff1d(segment.removed, acknowledged or []) + first):
            self._client.delete(self._collection, ids=keys)

    def _read_state(self) -> State | None:
        """What this engine has acknowledged; None if engine.json is missing, damaged, or of another engine."""
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            segments = {int(serial): [int(row) for row in rows] for serial, rows in state["segments"].items()}
            return segments if state["url"] == self._url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write_state(self, segments: State) -> None:
        replace_json(self._path, {"url": self._url, "segments": segments})

    def close(self) -> None:
        self._client.close()


def _columns(origin: Origin | None) -> dict[str, Any]:
    """What filters need to know of a row; values that pass none of them where it has no origin."""
    if origin is None:
        return {"source": "", "clock_ms": NOTHING, "height": NO_HEIGHT}
    clock = NOTHING if origin.clock is None else clock_ms(origin.clock)
    return {"source": origin.source, "clock_ms": clock, "height": box_height(origin)}


def _expression(where: Filter, store: Store) -> str:
    """A filter in Milvus' own language; it leaves out what the filter does not ask for."""
    parts = []
    if where.sources:
        names = ", ".join(json.dumps(source, ensure_ascii=False) for source in where.chosen_sources(store))
        parts.append(f"source in [{names}]")
    if where.asks_for_time:
        parts.append(f"clock_ms >= {clock_ms(where.after or datetime.min)}")
    if where.before is not None:
        parts.append(f"clock_ms < {clock_ms(where.before)}")
    if where.min_height is not None:
        parts.append(f"height >= {float(np.float32(where.min_height))}")
    return " and ".join(parts)


def _version(path: os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _parts(keys: np.ndarray) -> Iterator[list[int]]:
    for start in range(0, len(keys), ROWS_PER_CALL):
        yield keys[start : start + ROWS_PER_CALL].tolist()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
