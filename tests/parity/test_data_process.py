"""Preparation against data_process.py of RaSa (MAMBA-TBPS has the same): equal records; no tolerance."""

import json
import shutil

import pytest
from PIL import Image

from dataset.benchmarks import BENCHMARKS, SPLITS
from dataset.captions import clean_caption
from dataset.prepare import main
from dataset.records import read_records
from tests.helpers.paths import VECTORS

# the case eval_cli holds a test split of RSTPReid only, which has nothing to train on: see test_rstp_records
CASES = ["CUHK-PEDES", "ICFG-PEDES"]


@pytest.fixture(params=CASES)
def prepared(request, tmp_path):
    """(published files, folder prepared by us), with a tiny image for every record."""
    published = VECTORS / "data_process" / request.param
    raw_file = BENCHMARKS[request.param].raw_files[0]
    shutil.copy(published / raw_file, tmp_path)
    for entry in json.loads((published / raw_file).read_text()):
        path = tmp_path / "imgs" / entry["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 4)).save(path)
    assert main([request.param, str(tmp_path)]) == 0
    return published, tmp_path


@pytest.mark.parametrize("split", SPLITS)
def test_processed_files(prepared, split):
    published, root = prepared
    keys = ("id", "file_path", "captions")  # the published files carry every other key of the raw file along
    expected = json.loads((published / "processed_data" / f"{split}.json").read_text())
    ours = json.loads((root / "processed_data" / f"{split}.json").read_text())
    assert ours == [{key: entry[key] for key in keys} for entry in expected]
    assert read_records(root, split) == read_records(published, split)


def test_train_pairs(prepared):
    published, root = prepared
    expected = json.loads((published / "datasets.json").read_text())["train"]
    records = read_records(root, "train")
    labels = {person: label for label, person in enumerate(dict.fromkeys(record.person_id for record in records))}
    pairs = [[record.file_path, caption, labels[record.person_id]] for record in records for caption in record.captions]
    assert pairs == expected["pairs"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_lists(prepared, split):
    published, root = prepared
    datasets = json.loads((published / "datasets.json").read_text())
    expected = datasets["eval"][split]
    records = read_records(root, split)
    assert [record.file_path for record in records] == expected["image"]
    assert [record.person_id for record in records] == expected["img2person"]
    pairs = [(caption, record.person_id) for record in records for caption in record.captions]
    assert [clean_caption(caption, datasets["max_words"]) for caption, _ in pairs] == expected["text"]
    assert [person for _, person in pairs] == expected["txt2person"]


def test_rstp_records(tmp_path):
    """RSTPReid's img_path becomes file_path, as in the published processed file of the case eval_cli."""
    case = VECTORS / "eval_cli" / "rasa_cli_a"
    entries = json.loads((case / "data_captions.json").read_text())
    extra = {"id": 999, "split": "train", "img_path": entries[0]["img_path"].replace("000", "x"), "captions": ["a man"]}
    (tmp_path / "data_captions.json").write_text(json.dumps([*entries, extra]))
    shutil.copytree(case / "imgs", tmp_path / "imgs")
    Image.new("RGB", (2, 4)).save(tmp_path / "imgs" / extra["img_path"])
    assert main(["RSTPReid", str(tmp_path), "--verify-images", "--workers", "1"]) == 0
    assert read_records(tmp_path, "test") == read_records(case, "test")


def test_split_names_are_not_evaluated(tmp_path, capsys):
    """The published code evaluates the split string; an unknown one ends it with a NameError."""
    entry = {"id": 1, "split": "dev", "file_path": "CUHK01/a.png", "captions": ["a man"]}
    trap = {**entry, "split": f"open({str(tmp_path / 'trap')!r}, 'w')"}
    (tmp_path / "reid_raw.json").write_text(json.dumps([entry, trap]))
    assert main(["CUHK-PEDES", str(tmp_path)]) == 1
    assert "record 0 has the split 'dev', which is none of train, val, test" in capsys.readouterr().out
    assert not (tmp_path / "trap").exists()
