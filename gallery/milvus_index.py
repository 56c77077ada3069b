"""A copy of the vectors in Milvus, for galleries that outgrow one machine. Optional: requirements-milvus.txt.

One collection per index, named after it, indexed FLAT: inner product, exact, as FAISS here. Reads are strongly
consistent, so that what was acknowledged is found. engine.json beside the manifest says what Milvus has acknowledged;
an update that was interrupted is done again from there, which changes nothing where it was done already. Log in by the
environment variable MILVUS_TOKEN ("user:password" or a key).
"""

import json
import os
from collections.abc import Iterator

import numpy as np

from gallery.index import Neighbours
from gallery.store import KEYS_PER_SEGMENT, Store
from utils.errors import UserError
from utils.log import progress

STATE_FILE = "engine.json"
ROWS_PER_CALL = 1000  # a call may carry 64 MB


class MilvusIndex:
    """Raises: UserError if pymilvus is not installed, or the server cannot be reached or refuses something."""

    def __init__(self, url: str, store: Store) -> None:
        try:
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException
        except ImportError:
            raise UserError("engine: pymilvus is missing; pip install -r requirements-milvus.txt") from None
        self._url, self._collection, self._error = url, f"mamba_tbps_{store.manifest.name}", MilvusException
        self._store, self._in_step = store, False
        try:
            self._client = MilvusClient(uri=url, token=os.environ.get("MILVUS_TOKEN", ""))
            if self._client.has_collection(self._collection):
                self._client.load_collection(self._collection)
        except Exception as error:  # the client raises many types for an address that does not answer
            raise UserError(f"engine {url}: {_first_line(error)}") from None

    def search(self, queries: np.ndarray, k: int) -> Neighbours:
        """Raises: UserError if Milvus does not hold the rows of the store."""
        if not self._in_step:
            self._in_step = self._read_state() == self._removed_rows()
        if not self._in_step:
            raise UserError(f"engine {self._url} is behind this index: run search.py index again")
        if len(queries) == 0 or k < 1:
            raise ValueError(f"expected at least one query and k >= 1, got {len(queries)} and {k}")
        k = min(k, len(self._store))
        found = self._client.search(
            self._collection,
            data=np.asarray(queries, np.float32).tolist(),
            limit=k,
            search_params={"metric_type": "IP"},
            output_fields=["key"],
            consistency_level="Strong",
        )
        if any(len(hits) != k for hits in found):
            raise UserError(
                f"engine {self._url} has lost rows of this index: delete {self._collection} there, index again"
            )
        similarity = np.array([[hit["distance"] for hit in hits] for hits in found], np.float32)
        key = np.array([[hit["key"] for hit in hits] for hits in found], np.int64)
        order = np.lexsort((key, -similarity), axis=1)
        return Neighbours(np.take_along_axis(similarity, order, axis=1), np.take_along_axis(key, order, axis=1))

    def update(self, store: Store) -> None:
        """Raises: UserError if Milvus refuses something; what it acknowledged until then counts."""
        self._store, self._in_step = store, False
        acknowledged = self._read_state()
        try:
            if not self._client.has_collection(self._collection):
                self._create(store.manifest.width)
                acknowledged = {}
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

    def _create(self, width: int) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("key", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(self._collection, schema=schema, index_params=index)

    def _update_segment(self, serial: int, acknowledged: list[int] | None) -> None:
        """acknowledged: removed rows that Milvus has deleted; None = it may hold any part of the segment."""
        first, segment = serial * KEYS_PER_SEGMENT, self._store.segments[serial]
        if acknowledged is None:
            for keys in _parts(segment.live + first):
                rows = [{"key": key, "vector": self._store.vector(key).tolist()} for key in keys]
                self._client.upsert(self._collection, data=rows)
        for keys in _parts(np.setdiff1d(segment.removed, acknowledged or []) + first):
            self._client.delete(self._collection, ids=keys)

    def _removed_rows(self) -> dict[int, list[int]]:
        return {serial: segment.entry.removed for serial, segment in self._store.segments.items()}

    def _read_state(self) -> dict[int, list[int]]:
        """Removed rows by the serial of every segment that this engine holds."""
        try:
            state = json.loads((self._store.folder / STATE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return {int(serial): rows for serial, rows in state["segments"].items()} if state["url"] == self._url else {}

    def _write_state(self, segments: dict[int, list[int]]) -> None:
        temporary = self._store.folder / f"{STATE_FILE}.tmp"
        temporary.write_text(json.dumps({"url": self._url, "segments": segments}), encoding="utf-8")
        temporary.replace(self._store.folder / STATE_FILE)

    def close(self) -> None:
        self._client.close()


def _parts(keys: np.ndarray) -> Iterator[list[int]]:
    for start in range(0, len(keys), ROWS_PER_CALL):
        yield keys[start : start + ROWS_PER_CALL].tolist()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
