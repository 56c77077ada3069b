"""The table of a folder of crops."""

import sys
from datetime import datetime

import pytest

from gallery.footage.origin import Origin
from gallery.footage.table import FILE, SCHEMA, Crop, read_rows, read_table, write_rows
from utils.errors import UserError

PICTURE = Origin("/data/a.jpg", 0, None, None, (1.0, 2.0, 30.5, 80.0), (640, 360), None, None)
MOMENT = Origin("/data/b.mp4", 12, 0.48, datetime(2026, 11, 20, 8, 0, 0, 480_000), (0, 0, 9, 20), (64, 36), 0.75, 3)


@pytest.fixture(autouse=True)
def _needs_pyarrow():
    pytest.importorskip("pyarrow")


def test_rows_come_back_as_they_were_written(tmp_path):
    write_rows(tmp_path / FILE, [Crop("a/0.jpg", PICTURE), Crop("b/1.jpg", MOMENT)])
    assert read_table(tmp_path) == {"a/0.jpg": PICTURE, "b/1.jpg": MOMENT}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_columns_and_types_are_those_of_the_schema(tmp_path):
    from pyarrow import parquet

    write_rows(tmp_path / FILE, [])
    schema = parquet.read_schema(tmp_path / FILE)
    assert {field.name: (str(field.type), field.nullable) for field in schema} == SCHEMA


def test_a_folder_without_a_table_holds_plain_pictures(tmp_path):
    assert read_table(tmp_path) == {}


def test_many_rows_are_written_in_groups(tmp_path, monkeypatch):
    from pyarrow import parquet

    monkeypatch.setattr("gallery.footage.table.ROWS_AT_A_TIME", 2)
    assert write_rows(tmp_path / FILE, (Crop(f"{number}.jpg", MOMENT) for number in range(5))) == 5
    assert parquet.ParquetFile(tmp_path / FILE).num_row_groups == 3
    assert [crop.image for crop in read_rows(tmp_path / FILE)] == [f"{number}.jpg" for number in range(5)]


def test_writing_that_fails_leaves_the_old_table(tmp_path):
    def rows():
        yield Crop("b/1.jpg", MOMENT)
        raise OSError("disk full")

    write_rows(tmp_path / FILE, [Crop("a/0.jpg", PICTURE)])
    with pytest.raises(OSError, match="disk full"):
        write_rows(tmp_path / FILE, rows())
    assert read_table(tmp_path) == {"a/0.jpg": PICTURE}


def test_other_files_of_that_name_are_an_error_in_one_line(tmp_path):
    from pyarrow import Table, parquet

    (tmp_path / FILE).write_bytes(b"no table")
    with pytest.raises(UserError, match="not a table of crops"):
        read_table(tmp_path)
    parquet.write_table(Table.from_pylist([{"image": "a.jpg"}]), tmp_path / FILE)
    with pytest.raises(UserError, match="not a table of crops"):
        read_table(tmp_path)


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-video\.txt"):
        read_table(tmp_path)
