"""Data of one's own: from a table to processed_data/, and one line for each mistake."""

import json
from collections import Counter

import pytest

from dataset.custom import split_people
from dataset.records import Record, check_benchmark, read_records
from tests.helpers.annotations import only, run
from tests.helpers.own_tables import HEADER, ROWS, csv_text, lay_out_pictures
from utils.errors import UserError


@pytest.fixture
def prepare(tmp_path, capsys):
    """Write a table beside its pictures and prepare it: (exit status, lines)."""

    def prepared(text, *arguments, name="table.csv"):
        lay_out_pictures(tmp_path)
        (tmp_path / name).write_text(text)
        return run(tmp_path, capsys, *arguments, name="custom")

    return prepared


def test_rows_of_an_image_become_one_record(tmp_path, prepare):
    status, lines = prepare(csv_text())
    assert status == 0
    assert only(lines, "error") == only(lines, "warning") == []
    assert not any("official" in line for line in lines)
    check_benchmark(tmp_path, "custom")
    assert read_records(tmp_path, "train") == [
        Record(1, "a/1.png", ("a red coat, and a bag", "a coat")),
        Record(2, "a/2.png", ("a blue coat",)),
    ]
    assert read_records(tmp_path, "test") == [Record(4, "b/4.png", ("a scarf",))]
    people = json.loads((tmp_path / "processed_data" / "people.json").read_text())
    assert people == {"1": "ann", "2": "bob", "3": "cem", "4": "dee"}


def test_ids_that_are_numbers_stay(tmp_path, prepare):
    assert prepare(csv_text())[0] == 0  # and the people of an earlier table go
    rows = [
        (image, "0017" if person == "ann" else str(len(image)), caption, "train") for image, person, caption, _ in ROWS
    ]
    assert prepare(csv_text(rows[:3]))[0] == 0
    assert [record.person_id for record in read_records(tmp_path, "train")] == [17, 7]
    assert not (tmp_path / "processed_data" / "people.json").exists()


def test_a_list_of_captions_other_names_and_another_place(tmp_path, prepare, capsys):
    lay_out_pictures(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    entries = [
        {"path": f"imgs\\{image}", "pid": number, "text": [caption, "a man"], "part": split}
        for number, (image, _, caption, split) in enumerate(ROWS[1:])
    ]
    (elsewhere / "t.jsonl").write_text("\n".join(map(json.dumps, entries)))
    columns = ["image=path", "person_id=pid", "caption=text", "split=part"]
    status, _ = run(tmp_path, capsys, "--table", str(elsewhere / "t.jsonl"), "--columns", *columns, name="custom")
    assert status == 0
    assert read_records(tmp_path, "train")[0] == Record(0, "a/1.png", ("a coat", "a man"))


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a red coat', \"a man's hat\"]", ("a red coat", "a man's hat")),  # a list, as pandas writes it
        ("['a red coat'\n 'a hat']", ("a red coat", "a hat")),  # an array, as pandas writes it
        (json.dumps(["a red coat", "a café"]), ("a red coat", "a café")),
        ("['a red coat']", ("a red coat",)),
        ("[1, 2]", ("[1, 2]",)),
        ("[a man] in a coat", ("[a man] in a coat",)),
        ("[{[]: 1}]", ("[{[]: 1}]",)),
    ],
)
def test_a_list_of_captions_in_a_cell(tmp_path, prepare, cell, captions):
    assert prepare(changed(2, 2, cell))[0] == 0
    assert read_records(tmp_path, "train")[1].captions == captions


def test_a_repeated_caption_of_an_image_is_left_out(tmp_path, prepare):
    status, lines = prepare(csv_text([*ROWS, ROWS[1], ("a/2.png", "bob", "a coat", "train"), *[ROWS[0]] * 6]))
    assert status == 0
    told = [line.removeprefix(f"warning: {tmp_path / 'table.csv'}: ") for line in only(lines, "warning")]
    assert told[0] == "row 7 repeats a caption of its image: left out"
    assert "warning: ... and 2 more of this kind (repeated caption: 7)" in told
    assert [record.captions for record in read_records(tmp_path, "train")] == [
        ("a red coat, and a bag", "a coat"),
        ("a blue coat", "a coat"),
    ]


def test_drawn_people_keep_repeated_captions(tmp_path, prepare):
    """The file of their parts lists them, too."""
    (tmp_path / "synthetic.json").write_text("{}")
    status, lines = prepare(csv_text([*ROWS, ROWS[1]]))
    assert (status, only(lines, "warning")) == (0, [])
    assert read_records(tmp_path, "train")[0].captions == ("a red coat, and a bag", "a coat", "a coat")


def test_splits_without_people_are_named(prepare):
    status, lines = prepare(csv_text(ROWS[:3]))
    assert status == 0
    val, test = only(lines, "warning")
    assert "no val people: with eval.select_on: val, training holds out every 20th train person" in val
    assert "no test people: evaluation has nothing to measure" in test


def test_without_a_split_people_are_split_by_id(tmp_path, prepare):
    status, _ = prepare(csv_text([row[:3] for row in ROWS], HEADER[:3]), "--split", "0.5", "0.25", "0.25")
    assert status == 0
    people = [{record.person_id for record in read_records(tmp_path, split)} for split in ("train", "val", "test")]
    assert sorted(map(len, people)) == [1, 1, 2]
    assert set.union(*people) == {1, 2, 3, 4}


def test_the_split_is_seeded_and_does_not_depend_on_the_order():
    ids = [str(number) for number in range(100)]
    splits = split_people(ids, (0.8, 0.1, 0.1), seed=0)
    assert Counter(splits.values()) == {"train": 80, "val": 10, "test": 10}
    assert split_people(ids[::-1] + ids, (0.8, 0.1, 0.1), seed=0) == splits
    assert split_people(ids, (0.8, 0.1, 0.1), seed=1) != splits
    assert Counter(split_people(ids[:3], (0.98, 0.01, 0.01), seed=0).values()) == {"train": 1, "val": 1, "test": 1}
    assert set(split_people(ids, (0.9, 0, 0.1), seed=0).values()) == {"train", "test"}


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0, 0.5, 0.5), (80, 10, 10)])
def test_shares_that_are_none(shares):
    with pytest.raises(UserError, match="that add up to 1, such as"):
        split_people(["1", "2", "3", "4"], shares, seed=0)


def changed(row: int, column: int, value: str) -> str:
    rows = [list(each) for each in ROWS]
    rows[row][column] = value
    return csv_text(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (csv_text(header=("file", "person_id", "caption", "split")), "no column 'image'; it has 'file', 'person_id'"),
        (changed(1, 1, "bob"), "the image belongs to person"),
        (changed(4, 1, "ann"), "the person is in train already, with record 2"),
        (changed(2, 1, " "), "row 4 has ' ' as 'person_id': fill the cell in"),
        (changed(2, 0, ""), "row 4 has nothing as 'image': fill the cell in"),
        (changed(2, 2, ""), "record 4 (train, person 2, 'a/2.png') has only empty captions"),
        (changed(2, 2, "[]"), "record 4 has an empty list of captions"),
        (changed(2, 3, "dev"), "record 4 has the split 'dev', which is none of train, val, test"),
        (
            changed(2, 0, "/data/2.png"),
            "record 4 has the path '/data/2.png', which leaves the image folder: make it rel",
        ),
        (changed(2, 0, "a/9.png"), "1 of 2 images missing, the first: record 4 (train, person 2, 'a/9.png')"),
        ("image,person_id,caption\n", "the table is empty"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, prepare, text, message):
    status, lines = prepare(text)
    assert status == 1
    assert len(only(lines, "error")) == 1
    assert message in only(lines, "error")[0]
    assert not (tmp_path / "processed_data").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--columns", "picture=path"), "NAME one of image, person_id, caption, split"),
        (("--columns", "split=part"), "no column 'part'; it has"),
        (("--columns", "image=path"), "name it by --columns image=NAME"),
        (("--split", "0.8", "0.1", "0.1"), "its column 'split' splits the people already"),
    ],
)
def test_options_that_the_table_contradicts(prepare, arguments, message):
    status, lines = prepare(csv_text(), *arguments)
    assert status == 1
    assert message in only(lines, "error")[0]


def test_too_few_people(prepare):
    status, lines = prepare(csv_text([row[:3] for row in ROWS[:3]], HEADER[:3]))
    assert status == 1
    assert "2 people cannot be split into 3 splits" in only(lines, "error")[0]


def test_no_such_table(tmp_path, capsys):
    for arguments in ((), ("--table", "no.csv")):
        status, lines = run(tmp_path, capsys, *arguments, name="custom")
        assert (status, len(lines)) == (2, 1)
    assert f"no.csv: no such table, neither in this folder nor in {tmp_path}" in lines[0]


def test_a_benchmark_takes_no_table(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, capsys, "--table", "t.csv")
    assert "name it custom" in capsys.readouterr().err


def test_pictures_that_lie_elsewhere(tmp_path, capsys):
    lay_out_pictures(tmp_path / "photos")
    (tmp_path / "t.csv").write_text(csv_text())
    root, photos = tmp_path / "mine", tmp_path / "photos" / "imgs"
    options = ("--table", str(tmp_path / "t.csv"), "--images")
    for _ in range(2):  # the link may be there already
        assert run(root, capsys, *options, str(photos), name="custom")[0] == 0
    assert (root / "imgs").resolve() == photos
    assert (root / "imgs" / read_records(root, "test")[0].file_path).is_file()
    for folder, message in ((tmp_path, "is there already: leave --images out"), (root / "no", "no such folder of pic")):
        status, lines = run(root, capsys, *options, str(folder), name="custom")
        assert (status, len(lines)) == (2, 1)
        assert message in lines[0]
