"""The index that the tests of engines search."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import add, new_writer


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[StoreWriter]:
    """An index with three segments of 30, 1 and 20 rows, open for writing."""
    with new_writer(tmp_path / "index") as opened:
        for number, rows in enumerate((30, 1, 20)):
            add(opened, f"part{number}", rows)
        yield opened
