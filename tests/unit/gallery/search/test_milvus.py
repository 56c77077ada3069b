"""Milvus (milvus-lite, in a file) when it lags behind the store, is ahead of it, or its update is killed."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from gallery.search.engines import open_engine
from gallery.store.store import KEYS_PER_SEGMENT, Store
from tests.helpers.gallery_store import WIDTH, add, expected
from tests.helpers.paths import REPOSITORY
from utils.errors import UserError

pytest.importorskip("milvus_lite", reason="requirements-milvus.txt not installed")

QUERY = np.ones((1, WIDTH), np.float32)


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "milvus.db")


def check(engine, store: Store, k: int = 1000) -> None:
    found, wanted = engine.search(QUERY, k), expected(store, QUERY, k)
    np.testing.assert_array_equal(found.key, wanted.key)
    np.testing.assert_allclose(found.similarity, wanted.similarity, rtol=0, atol=1e-5)


def test_milvus_behind_the_store_is_noticed_and_catches_up(writer, url):
    engine = open_engine(writer.store, url)
    with pytest.raises(UserError, match=r"is behind this index: run search\.py index again"):
        engine.search(QUERY, 3)
    engine.update(writer.store)
    engine.search(QUERY, 3)
    # A crash in the middle of an update: Milvus has rows that engine.json does not record.
    state = writer.folder / "engine.json"
    noted = json.loads(state.read_text())
    state.write_text(json.dumps({**noted, "segments": {"1": []}}))
    engine.close()
    engine = open_engine(writer.store, url)
    with pytest.raises(UserError, match="is behind this index"):
        engine.search(QUERY, 3)
    engine.update(writer.store)
    check(engine, writer.store)
    engine.close()


def test_a_search_follows_what_another_process_changes(writer, url):
    engine = open_engine(writer.store, url)
    engine.update(writer.store)
    searching = engine.following(writer.store)
    old = writer.store
    check(searching, old)

    add(writer, "later", 5)  # the store has more rows than Milvus: the new ones are not found yet
    searching = searching.following(writer.store)
    np.testing.assert_array_equal(np.sort(searching.search(QUERY, 100).key[0]), old.keys())
    with pytest.raises(UserError, match="is behind this index"):
        open_engine(writer.store, url).search(QUERY, 3)  # cannot tell which rows are missing
    engine.update(writer.store)
    check(searching, writer.store)

    best = [key for key in expected(writer.store, QUERY, 60).key[0].tolist() if key < 2 * KEYS_PER_SEGMENT]
    writer.commit(removed=best[:2])  # Milvus has more rows than the store: unknown keys are dropped
    found = searching.following(writer.store).search(QUERY, 60).key[0].tolist()
    assert found == expected(writer.store, QUERY, 60).key[0].tolist()
    assert set(best[:2]).isdisjoint(found)
    engine.update(writer.store)
    check(searching.following(writer.store), writer.store)

    # Milvus lacks the rows of a rewritten segment under their new keys: no answer is better than half of one.
    writer.erase(writer.store.keys()[:1])
    with pytest.raises(UserError, match="or wait for it to end"):
        searching.following(writer.store).search(QUERY, 3)
    engine.update(writer.store)
    check(searching.following(writer.store), writer.store)
    writer.erase(writer.store.keys())
    engine.update(writer.store)
    assert searching.following(writer.store).search(QUERY, 3).key.shape == (1, 0)
    engine.close()


@pytest.mark.parametrize("state", [None, "", "[]", '{"url": "elsewhere", "segments": {}}', '{"segments": {"1": 3}}'])
def test_without_a_valid_state_the_collection_is_made_anew(writer, url, state):
    engine = open_engine(writer.store, url)
    engine.update(writer.store)
    writer.erase(writer.store.keys()[:3])  # drops a segment that Milvus has
    path = writer.folder / "engine.json"
    path.unlink() if state is None else path.write_text(state)
    with pytest.raises(UserError, match="is behind this index"):
        engine.search(QUERY, 3)
    engine.update(writer.store)
    check(engine, writer.store)
    held = engine._client.query(engine._collection, filter="key >= 0", output_fields=["key"], limit=1000)
    assert sorted(row["key"] for row in held) == writer.store.keys().tolist()
    engine.close()


def test_what_the_client_refuses_is_told_in_one_line(writer, url):
    engine = open_engine(writer.store, url)
    engine.update(writer.store)
    engine._client.drop_collection(engine._collection)
    with pytest.raises(UserError, match=r"^engine .*milvus\.db: ") as caught:
        engine.search(QUERY, 3)
    assert "\n" not in str(caught.value)
    engine.close()


def test_a_killed_update_is_finished_by_the_next_one(writer, url):
    """51 rows in calls of 7: killed after the 1st and the 6th, then while the rows of a segment change their keys."""

    def killed(calls: int) -> None:
        command = [sys.executable, "-m", "tests.helpers.gallery_milvus_crash", str(writer.folder), url, str(calls)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr

    for calls in (1, 6):
        killed(calls)
    writer.erase(writer.store.keys()[5:25])
    killed(4)
    engine = open_engine(writer.store, url)
    with pytest.raises(UserError, match="is behind this index"):
        engine.search(QUERY, 3)
    engine.update(writer.store)
    check(engine, writer.store)
    assert len(writer.store) == 31
    engine.close()
