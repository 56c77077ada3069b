"""A folder saved by the package `datasets`: its pictures and captions, and one line where it cannot be read."""

import sys

import pytest

from dataset.records import read_records
from dataset.saved_datasets import read_saved
from tests.helpers.annotations import PNG, only, run
from tests.helpers.own_tables import HEADER
from utils.errors import UserError

NAMES = dict(zip(HEADER, HEADER, strict=True))


def test_a_folder_with_splits(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "person_id": datasets.Value("int64"), "caption": [datasets.Value("string")]}
    )

    def part(person):
        pictures = [{"bytes": PNG.getvalue() + bytes([person]), "path": None}] * 2  # one picture in two rows
        columns = {"image": pictures, "person_id": [person] * 2, "caption": [["a coat", "a hat"], ["a bag"]]}
        return datasets.Dataset.from_dict(columns, features=features)

    saved = datasets.DatasetDict({"train": part(1), "validation": part(2), "test": part(3)})
    saved.save_to_disk(tmp_path / "saved")
    root = tmp_path / "mine"
    root.mkdir()
    status, _ = run(root, capsys, "--table", str(tmp_path / "saved"), name="custom")
    assert status == 0
    for person, split in enumerate(("train", "val", "test"), start=1):
        (record,) = read_records(root, split)
        assert (record.person_id, record.captions) == (person, ("a coat", "a hat", "a bag"))
        assert (root / "imgs" / record.file_path).read_bytes() == PNG.getvalue() + bytes([person])


def test_a_single_split_is_none(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    columns = {"image": ["a.png", "b.png"], "person_id": [1, 2], "caption": ["a coat", "a hat"]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}).save_to_disk(tmp_path / "saved")
    for name in columns["image"]:
        (tmp_path / "imgs").mkdir(exist_ok=True)
        (tmp_path / "imgs" / name).write_bytes(PNG.getvalue())
    arguments = ("--table", str(tmp_path / "saved"), "--split", "0.5", "0", "0.5")
    status, lines = run(tmp_path, capsys, *arguments, name="custom")
    assert (status, only(lines, "error")) == (0, [])
    assert [len(read_records(tmp_path, split)) for split in ("train", "val", "test")] == [1, 0, 1]


def test_a_folder_that_is_none(tmp_path, capsys):
    pytest.importorskip("datasets")
    (tmp_path / "other").mkdir()
    status, lines = run(tmp_path, capsys, "--table", str(tmp_path / "other"), name="custom")
    assert status == 1
    assert "not a folder that datasets' save_to_disk wrote" in only(lines, "error")[0]


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"'pip install datasets'$"):
        read_saved(tmp_path, NAMES, tmp_path / "imgs")
