"""Tables of annotations: what is read from each kind of file, and one line for each mistake."""

import json
import sys

import pytest

from dataset.tables import Row, read_table
from tests.helpers.own_tables import HEADER, ROWS, csv_text
from utils.errors import UserError

FIRST = dict(zip(HEADER, ROWS[0], strict=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_spreadsheet(tmp_path, encoding, delimiter):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_text(delimiter=delimiter).encode(encoding))
    rows = read_table(path)
    assert rows[0] == Row(2, FIRST)
    assert [row.number for row in rows] == [2, 3, 4, 5, 6]


def test_a_cell_of_several_lines_is_one_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('image,caption\n1.png,"a coat\nand a ""hat"""\n,\n2.png,x\n')
    assert read_table(path) == [
        Row(2, {"image": "1.png", "caption": 'a coat\nand a "hat"'}),
        Row(4, {"image": "2.png", "caption": "x"}),
    ]


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_cell_without_quotes_keeps_what_is_no_line_break_in_csv(tmp_path, break_):
    path = tmp_path / "t.csv"
    path.write_bytes(f"image,{break_}note\r\n1.png,a coat{break_}a hat\r\n".encode())
    assert [(row.number, *row.cells.values()) for row in read_table(path)] == [(2, "1.png", f"a coat{break_}a hat")]


def test_columns_without_a_name_may_be_several(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,caption,,\n1.png,a coat,,\n")
    assert read_table(path) == [Row(2, {"image": "1.png", "caption": "a coat", "": ""})]


def test_json_lines_keep_lists_and_numbers(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "1.png", "person_id": 3, "caption": ["a", "b"]}\n\n{"image": "2.png"}\n')
    assert read_table(path) == [
        Row(1, {"image": "1.png", "person_id": 3, "caption": ["a", "b"]}),
        Row(3, {"image": "2.png"}),
    ]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = {"image": "1.png", "person_id": 3, "caption": ["a", "b"]}
    parquet.write_table(pyarrow.Table.from_pylist([cells]), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == [Row(1, cells)]


def test_parquet_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(UserError, match=r"pip install pyarrow', or save the table as \.csv or \.jsonl$"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "the table is empty"),
        ("t.csv", "image,person_id,caption\n", "the table is empty"),
        ("t.jsonl", "\n", "the table is empty"),
        ("t.csv", "image,caption\n1.png,a red coat, and a bag\n", "row 2 has 3 cells, but the header has 2: put a cap"),
        ("t.csv", 'image,caption\n1.png,"a coat\n', "broken CSV"),
        ("t.csv", "image,caption,caption \n1.png,a coat,a hat\n", "2 columns are called 'caption': rename all but one"),
        ("t.jsonl", json.dumps(FIRST) + "\n{'image': 1}\n", "line 2 is not JSON"),
        ("t.jsonl", "[1]\n", "line 1 must be an object"),
        ("t.xlsx", "PK", r"one of \.csv, \.tsv, \.jsonl, \.parquet; save the spreadsheet as CSV"),
        ("t.parquet", "no", "not a Parquet file|pip install pyarrow"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_table(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_table_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_bytes(csv_text([("1.png", "1", "café", "train")]).encode("latin-1"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_table(tmp_path / "t.csv")
