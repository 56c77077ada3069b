import json

import pytest

from dataset.benchmarks import BENCHMARKS, SplitCounts, benchmark
from dataset.records import (
    HOLD_OUT_EVERY,
    Record,
    check_benchmark,
    hold_out_validation,
    parse_record,
    read_json_list,
    read_records,
)
from utils.errors import UserError

GOOD = {"id": 7, "file_path": "cam_a/1.png", "captions": ["a man", "a tall man"], "processed_tokens": [["a"]]}


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_read_records_ignores_other_keys(tmp_path):
    write(tmp_path / "processed_data" / "train.json", json.dumps([GOOD]))
    assert read_records(tmp_path, "train") == [Record(7, "cam_a/1.png", ("a man", "a tall man"))]


def test_read_records_before_preparation_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"val\.json not found: run 'bash shell/data_process\.sh"):
        read_records(tmp_path, "val")


def test_read_records_of_an_unknown_split(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'dev': choose one of train, val, test"):
        read_records(tmp_path, "dev")


def test_read_records_names_file_and_record(tmp_path):
    write(tmp_path / "processed_data" / "test.json", json.dumps([GOOD, {**GOOD, "captions": []}]))
    with pytest.raises(ValueError, match=r"test\.json: record 1 has an empty list of captions"):
        read_records(tmp_path, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "12a"}, "has the id '12a', which is not an integer"),
        ({"id": 1.0}, "has the id 1.0"),
        ({"id": True}, "has the id True"),
        ({"id": float("nan")}, "has the id nan"),
        ({"id": -1}, "has the id -1"),
        ({"id": 2**63}, "has the id 9223372036854775808"),
        ({"id": "²"}, "has the id '²'"),
        ({"file_path": 3}, "has 3 as 'file_path' instead of an image path"),
        ({"file_path": " "}, "has ' ' as 'file_path'"),
        ({"file_path": "/etc/x.png"}, "'/etc/x.png', which leaves the image folder"),
        ({"file_path": "cam_a/../../x.png"}, "leaves the image folder"),
        ({"file_path": "..\\x.png"}, "leaves the image folder"),
        ({"file_path": "\\\\server\\x.png"}, "leaves the image folder"),
        ({"file_path": "C:\\x.png"}, "leaves the image folder"),
        ({"captions": "a man"}, "has 'a man' as 'captions' instead of a list of strings"),
        ({"captions": ["a man", 3]}, "instead of a list of strings"),
        ({"captions": []}, "has an empty list of captions"),
    ],
)
def test_bad_values(change, message):
    with pytest.raises(ValueError, match=r"^has ") as caught:
        parse_record({**GOOD, **change}, "file_path")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["id", "file_path", "captions"])
def test_absent_keys(key):
    with pytest.raises(ValueError, match=f"has no '{key}'"):
        parse_record({name: value for name, value in GOOD.items() if name != key}, "file_path")


def test_path_key_of_another_benchmark_is_named():
    with pytest.raises(ValueError, match="has no 'img_path' but 'file_path': is it another benchmark's file"):
        parse_record(GOOD, "img_path")


@pytest.mark.parametrize("entry", [None, 3, "x", [GOOD]])
def test_entries_that_are_no_objects(entry):
    with pytest.raises(ValueError, match="instead of an object with id"):
        parse_record(entry, "file_path")


def test_ids_may_be_digits_and_paths_may_hold_dots():
    assert parse_record({**GOOD, "id": "0012", "file_path": "a..b/c..png"}, "file_path")[:2] == (12, "a..b/c..png")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path, encoding):
    assert read_json_list(write(tmp_path / "a.json", '["Zoë 人"]', encoding)) == ["Zoë 人"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[\n{"id": 1},\n{"id": 2',
            "cut off, download or copy the file again: Expecting ',' delimiter at line 3, column",
        ),
        ('[{"id": 1}, {"captions": ["a"]', "cut off"),
        ('[{"id": "ab', "cut off"),
        ('[{"id": 1} {"id": 2}]', "broken JSON: Expecting ',' delimiter at line 1, column 12 (character 11 of 21)"),
        ('{"train": []}', "must hold a list of records, but it holds an object"),
        ("null", "must hold a list of records, but it holds null"),
        ("<!DOCTYPE html>", "not a JSON file (it starts with '<!DOCTYPE html>')"),
        (" \n", "the file is empty"),
    ],
)
def test_broken_json(tmp_path, text, message):
    path = write(tmp_path / "raw.json", text)
    with pytest.raises(ValueError, match=r"raw\.json: ") as caught:
        read_json_list(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_unicode(tmp_path):
    with pytest.raises(ValueError, match=r"raw\.json: not utf-8-sig text at byte 4: .*; save it as UTF-8"):
        read_json_list(write(tmp_path / "raw.json", '["Zoë"]', "latin-1"))


def test_another_benchmark_is_named(tmp_path):
    check_benchmark(tmp_path, "RSTPReid")  # prepared by another program
    write(tmp_path / "processed_data" / "benchmark.txt", "ICFG-PEDES\n")
    check_benchmark(tmp_path, "ICFG-PEDES")
    with pytest.raises(UserError, match=r"holds ICFG-PEDES, but dataset\.name is RSTPReid: set dataset\.name to ICFG"):
        check_benchmark(tmp_path, "RSTPReid")


def records_of(people):
    return [Record(person, f"{person}_{view}.jpg", ("a man",)) for view in range(2) for person in people]


def test_held_out_people_are_moved_entirely_whatever_the_order():
    people = range(100, 160)
    train, validation = hold_out_validation(records_of(people))
    assert {record.person_id for record in validation} == set(people[::HOLD_OUT_EVERY]) == {100, 120, 140}
    assert len(validation) == 6
    assert sorted(train + validation) == sorted(records_of(people))
    again = hold_out_validation(records_of(people)[::-1])
    assert sorted(again[1]) == sorted(validation)


def test_hold_out_is_five_percent_of_icfg():
    people = BENCHMARKS["ICFG-PEDES"].splits["train"].people
    _, validation = hold_out_validation(records_of(range(people)))
    assert len({record.person_id for record in validation}) == 156


def test_one_person_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"train has 1; set eval\.select_on to test"):
        hold_out_validation(records_of([3]))


def test_benchmark_by_name():
    assert benchmark("RSTPReid").path_key == "img_path"
    with pytest.raises(ValueError, match="unknown benchmark 'CUHK': choose one of CUHK-PEDES, ICFG-PEDES, RSTPReid"):
        benchmark("CUHK")


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("CUHK-PEDES", (13_003, 40_206, 80_440)),
        ("ICFG-PEDES", (4_102, 54_522, 54_522)),
        ("RSTPReid", (4_101, 20_505, 41_010)),
    ],
)
def test_official_splits_add_up(name, total):
    splits = BENCHMARKS[name].splits.values()
    assert SplitCounts(*(sum(column) for column in zip(*splits, strict=True))) == total
