"""The table of a folder of crops."""

import math
import sys
from datetime import datetime, timezone

import numpy as np
import pytest

from gallery.footage.origin import Origin
from gallery.footage.table import FILE, SCHEMA, Crop, read_rows, read_table, write_rows
from gallery.store.origins import ORIGIN, RECORDS_FILE, SOURCES_FILE, Origins, OriginsWriter
from utils.errors import UserError

PICTURE = Origin("/data/a.jpg", 0, None, None, (1.0, 2.0, 30.5, 80.0), (640, 360), None, None)
OWN = {  # as Python's and pandas' numbers come: 64 bits, NaN, microseconds
    **{"image": "a.jpg", "source": "/data/a.jpg", "frame": 0, "time_s": math.nan, "score": math.nan, "track": None},
    **{"clock": datetime(2026, 11, 20, 8, 0, 0, 480_123), "frame_width": 640, "frame_height": 360},
    **{"x0": 0.1, "y0": 0.2, "x1": 9.3, "y1": 20.7},
}
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
    for rows in ([{"image": "a.jpg"}], [{**OWN, "frame": None}], [{**OWN, "clock": "noon"}]):
        parquet.write_table(Table.from_pylist(rows), tmp_path / FILE)
        with pytest.raises(UserError, match="not a table of crops"):
            read_table(tmp_path)


def test_a_table_of_the_users_own_is_read_as_the_index_keeps_it(tmp_path):
    """Otherwise each run of `index` would find its rows changed: an index keeps 32 bits and milliseconds."""
    from pyarrow import Table, parquet

    parquet.write_table(Table.from_pylist([OWN]), tmp_path / FILE)
    origin = read_table(tmp_path)["a.jpg"]
    assert (origin.score, origin.time_s, origin.track) == (None, None, None)
    assert origin.clock == datetime(2026, 11, 20, 8, 0, 0, 480_000)
    collected = OriginsWriter()
    collected.append([origin])
    files = collected.files()
    (tmp_path / SOURCES_FILE).write_bytes(files[SOURCES_FILE])
    assert Origins(tmp_path, np.frombuffer(files[RECORDS_FILE], ORIGIN)).origin(0) == origin


def test_a_clock_with_a_time_zone_is_refused(tmp_path):
    from pyarrow import Table, parquet

    parquet.write_table(
        Table.from_pylist([{**OWN, "clock": OWN["clock"].replace(tzinfo=timezone.utc)}]), tmp_path / FILE
    )
    with pytest.raises(UserError, match=r"crops\.parquet: the column clock has a time zone; write it without one"):
        read_table(tmp_path)


def test_only_what_is_wanted_is_kept(tmp_path):
    write_rows(tmp_path / FILE, [Crop(f"{number}.jpg", MOMENT) for number in range(5)])
    assert list(read_table(tmp_path, wanted={"3.jpg", "other.jpg"})) == ["3.jpg"]


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / FILE).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-video\.txt"):
        read_table(tmp_path)
