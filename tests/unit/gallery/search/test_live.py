"""An index that another process changes while this one searches it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from gallery.search.live import LiveIndex
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import WIDTH, add, expected
from utils.errors import UserError

QUERY = np.ones((1, WIDTH), np.float32)


def test_changes_count_from_the_next_question_on(writer):
    live = LiveIndex(writer.folder)
    view = live.now()
    assert live.now() is view  # it is not opened again without need
    before = expected(writer.store, QUERY, 60).key
    writer.erase(before[0, :3])
    assert live.now() is not view
    after = live.now().engine.search(QUERY, 60).key
    np.testing.assert_array_equal(after, expected(writer.store, QUERY, 60).key)
    assert len(live.now().store) == 48
    # A query that is being answered keeps its view, although the files are deleted.
    np.testing.assert_array_equal(view.engine.search(QUERY, 60).key, before)
    assert view.store.image(int(before[0, 0])).path
    add(writer, "later", 2)
    assert len(live.now().store) == 50
    live.close()


def test_an_index_that_is_gone_or_another_one_is_not_searched(writer):
    live, manifest = LiveIndex(writer.folder), writer.store.manifest
    writer.commit(name="another")
    with pytest.raises(UserError, match=r"was made anew.*start this program again"):
        live.now()
    writer.commit(name=manifest.name)
    assert len(live.now().store) == 51
    shutil.rmtree(writer.folder)
    with pytest.raises(UserError, match="is not an index"):
        live.now()
    with StoreWriter(writer.folder, replace(manifest, name="third", segments=[])), pytest.raises(UserError):
        live.now()
