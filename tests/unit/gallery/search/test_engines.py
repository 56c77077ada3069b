"""First stage: both engines against a plain matrix product, while the index changes."""

from importlib.util import find_spec

import numpy as np
import pytest

from gallery.search.engine import Neighbours, merged
from gallery.search.engines import open_engine
from gallery.store.store import Store
from tests.helpers.gallery_store import WIDTH, add, expected
from utils.errors import UserError

MILVUS = pytest.param(
    "milvus.db", marks=pytest.mark.skipif(not find_spec("milvus_lite"), reason="requirements-milvus.txt not installed")
)


def url_of(name: str | None, store: Store) -> str | None:
    return None if name is None else str(store.folder.parent / name)


@pytest.mark.parametrize("engine", [None, MILVUS])
def test_the_nearest_are_those_of_the_matrix_product_while_the_index_changes(engine, writer):
    queries = np.random.default_rng(9).standard_normal((3, WIDTH), dtype=np.float32)
    searched = open_engine(writer.store, url_of(engine, writer.store))
    searched.update(writer.store)

    def check(k: int) -> None:
        for rows in (queries, queries[:1]):
            found, wanted = searched.search(rows, k), expected(writer.store, rows, k)
            np.testing.assert_array_equal(found.key, wanted.key)
            np.testing.assert_allclose(found.similarity, wanted.similarity, rtol=0, atol=1e-5)

    check(7)
    check(1000)  # more than there are
    writer.commit(removed=[*expected(writer.store, queries, 2).key[0].tolist(), 2 * 2**32])  # a whole segment, too
    searched.update(writer.store)
    check(7)
    add(writer, "later", 5)
    add(writer, "part0", 10)  # replaces rows
    writer.tidy()
    searched.update(writer.store)
    check(10)
    check(1000)
    searched.close()


def test_an_empty_index_finds_nothing(writer):
    writer.commit(removed=writer.store.keys())
    found = open_engine(writer.store).search(np.ones((2, WIDTH), np.float32), 5)
    assert found.similarity.shape == found.key.shape == (2, 0)


def test_equal_similarities_come_in_the_order_of_the_keys():
    parts = [
        Neighbours(np.array([[0.5, 0.2]], np.float32), np.array([[7, 8]])),
        Neighbours(np.array([[0.5, 0.5]], np.float32), np.array([[3, 9]])),
    ]
    found = merged(parts, 3)
    assert found.key.tolist() == [[3, 7, 9]]
    assert found.similarity.tolist() == [[0.5, 0.5, 0.5]]


def test_what_cannot_be_asked(writer):
    engine = open_engine(writer.store)
    with pytest.raises(ValueError, match="expected queries"):
        engine.search(np.ones((1, WIDTH + 1), np.float32), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        engine.search(np.ones((1, WIDTH), np.float32), 0)
    with pytest.raises(UserError, match="expected the URL of a Milvus server"):
        open_engine(writer.store, "postgres://somewhere")
