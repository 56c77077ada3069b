import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset import prepare
from dataset.checks import Finding
from dataset.prepare import main
from dataset.records import Record, check_benchmark, read_records
from tests.helpers.annotations import PNG, entry, lay_out, only, run, small
from tests.helpers.paths import REPOSITORY

SCRIPT = REPOSITORY / "shell" / "data_process.sh"


def test_writes_the_splits_and_compares_counts(tmp_path, capsys):
    status, lines = run(lay_out(tmp_path, small()), capsys)
    assert status == 0
    assert lines[-1].startswith("ready: wrote train.json, val.json, test.json")
    assert only(lines, "error") == []
    file = tmp_path / "reid_raw.json"
    assert only(lines, "warning")[0] == (
        f"warning: {file}: train has 2 people (official: 11,003), 2 images (official: 34,054), "
        "3 captions (official: 68,126)"
    )
    assert len(only(lines, "warning")) == 3
    table = next(line for line in lines if " train " in line and "11,003" in line and "official" not in line)
    assert [cell.strip() for cell in table.strip("│| ").split("│")] == [
        *("train", "2", "11,003", "2", "34,054", "3", "68,126")
    ]
    expected = [Record(1, "cam_a/1.png", ("a man", "a tall man")), Record(2, "cam_b/2.png", ("person number 2",))]
    assert read_records(tmp_path, "train") == expected
    assert sorted(path.name for path in (tmp_path / "processed_data").iterdir()) == [
        *("benchmark.txt", "test.json", "train.json", "val.json")
    ]
    check_benchmark(tmp_path, "CUHK-PEDES")


def test_synthetic_benchmark_skips_official_counts(tmp_path, capsys):
    lay_out(tmp_path, small())
    (tmp_path / "synthetic.json").write_text("{}")
    status, lines = run(tmp_path, capsys)
    assert status == 0
    assert "synthetic benchmark" in lines[0]
    assert only(lines, "warning") == []
    assert not any("official" in line for line in lines[1:])


def test_captions_are_written_as_annotated(tmp_path, capsys):
    caption = 'A <person>, "Zoë" 人 \ud800!\n'
    lay_out(tmp_path, [*small(), entry("train", 2, "cam_b/9.png", caption)])
    assert run(tmp_path, capsys)[0] == 0
    assert read_records(tmp_path, "train")[-1].captions == (caption,)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (entry("test", 1, "Market/5.png"), "the person is in train already, with record 0"),
        (entry("train", 1, "/data/5.png"), "record 4 has the path '/data/5.png', which leaves the image folder"),
        (entry("train", 1, "cam_a/../../5.png"), "record 4 has the path 'cam_a/../../5.png', which leaves"),
        (entry("train", 1, "cam_a/5.png", " ?! "), "has only empty captions"),
        ({**entry("train", 1, "cam_a/5.png"), "captions": []}, "record 4 has an empty list of captions"),
        ({**entry("train", 1, "cam_a/5.png"), "captions": "a man"}, "record 4 has 'a man' as 'captions'"),
        ({"id": 1, "split": "train", "file_path": "cam_a/5.png"}, "record 4 has no 'captions'"),
        ({"id": 1, "file_path": "cam_a/5.png", "captions": ["a"]}, "record 4 has no 'split'"),
        ({"split": "train", "file_path": "cam_a/5.png", "captions": ["a"]}, "record 4 has no 'id'"),
        ({"split": "train", "id": 1, "img_path": "cam_a/5.png", "captions": ["a"]}, "record 4 has no 'file_path' but"),
        (entry("training", 1, "cam_a/5.png"), "record 4 has the split 'training', which is none of train, val, test"),
        (entry(["train"], 1, "cam_a/5.png"), "record 4 has the split ['train'], which is none of"),
        (entry("train", "x1", "cam_a/5.png"), "record 4 has the id 'x1', which is not an integer"),
        (entry("train", 2, "cam_a/1.png"), "the image belongs to person 1 in record 0"),
        ("record", "record 4 is a string instead of an object"),
        (entry("train", 1, "cam_a/\0.png"), "imgs/cam_a: 1 of 2 images missing, the first: record 4"),
        (entry("train", 1, "cam_a/\udcff.png"), "imgs/cam_a: 1 of 2 images missing, the first: record 4"),
        (entry("train", float("nan"), "cam_a/5.png"), "record 4 has the id nan, which is not an integer"),
    ],
)
def test_errors_name_file_and_record_and_keep_earlier_files(tmp_path, capsys, added, message):
    lay_out(tmp_path, small())
    assert run(tmp_path, capsys)[0] == 0
    before = (tmp_path / "processed_data" / "train.json").read_bytes()
    entries = [*small(), added]
    (tmp_path / "reid_raw.json").write_text(json.dumps(entries))
    if isinstance(added, dict) and added.get("file_path", "").startswith("Market/"):
        lay_out(tmp_path, entries)
    if isinstance(added, dict) and added.get("file_path") == "cam_a/5.png":
        (tmp_path / "imgs" / "cam_a" / "5.png").write_bytes(PNG.getvalue())
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert len(only(lines, "error")) == 1
    assert message in only(lines, "error")[0]
    assert "reid_raw.json" in only(lines, "error")[0] or "imgs/cam_a" in only(lines, "error")[0]
    assert "record 4" in only(lines, "error")[0]
    assert lines[-1].startswith("not ready: 1 errors; nothing was written")
    assert (tmp_path / "processed_data" / "train.json").read_bytes() == before


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (entry("train", 1, "cam_a/5.png", "a coat", "..."), "1 of 2 captions are empty and left out"),
        (entry("train", 1, "cam_a/5.png", "Person-number 2."), "and record 1 (person 2) share the caption 'Person-nu"),
        (entry("train", 1, "cam_a/1.png", "a coat"), "the image is listed already, in record 0"),
    ],
)
def test_warnings_do_not_stop(tmp_path, capsys, added, message):
    status, lines = run(lay_out(tmp_path, [*small(), added]), capsys)
    assert status == 0
    found = [line for line in only(lines, "warning") if message in line]
    assert len(found) == 1
    assert "reid_raw.json: record 4 (train, person 1, 'cam_a/" in found[0]


def test_empty_captions_are_left_out(tmp_path, capsys):
    assert run(lay_out(tmp_path, [entry("train", 1, "cam_a/5.png", "", "a coat", "\n")]), capsys)[0] == 0
    assert read_records(tmp_path, "train")[0].captions == ("a coat",)


def test_same_caption_of_one_person_is_no_finding(tmp_path, capsys):
    lay_out(tmp_path, [*small(), entry("train", 1, "cam_a/5.png", "a man")])
    assert not any("share the caption" in line for line in run(tmp_path, capsys)[1])


def test_many_findings_of_one_kind_are_cut_short(tmp_path, capsys):
    entries = small() + [{**entry("train", 1, f"cam_a/{view}.png"), "captions": []} for view in range(10, 22)]
    status, lines = run(lay_out(tmp_path, entries), capsys)
    assert status == 1
    assert len(only(lines, "error")) == 6
    assert only(lines, "error")[-1] == "error: ... and 7 more of this kind (no captions: 12)"


def test_errors_are_shown_before_warnings(capsys):
    prepare.print_findings([Finding("a", "first", False), Finding("b", "second", True)])
    assert capsys.readouterr().out.splitlines() == ["error: second", "warning: first"]


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"id": 1,', "cut off"), ('{"train": []}', "must hold a list"), ("", "the file is empty")],
)
def test_broken_annotation_file(tmp_path, capsys, text, message):
    (tmp_path / "reid_raw.json").write_text(text)
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert lines[0].startswith(f"error: {tmp_path}/reid_raw.json: ")
    assert message in lines[0]
    assert lines[1].startswith("not ready")
    assert not (tmp_path / "processed_data").exists()


def test_no_train_records(tmp_path, capsys):
    status, lines = run(lay_out(tmp_path, small()[2:]), capsys)
    assert status == 1
    assert "there is no usable record of train" in only(lines, "error")[0]


def test_missing_folder_and_annotation_file(tmp_path, capsys):
    status, lines = run(tmp_path / "nowhere", capsys, name="ICFG-PEDES")
    assert (status, lines) == (
        2,
        [f"error: {tmp_path}/nowhere: no such folder; it should hold ICFG-PEDES.json or ICFG_PEDES.json and imgs/"],
    )
    (tmp_path / "caption_all.json").write_text("[]")
    status, lines = run(tmp_path, capsys)
    assert status == 2
    message = "no annotation file of CUHK-PEDES, looked for reid_raw.json; the folder has caption_all.json"
    assert lines == [f"error: {tmp_path}: {message}"]


def test_both_names_of_the_icfg_file(tmp_path, capsys):
    lay_out(tmp_path, small()[:1])
    (tmp_path / "reid_raw.json").rename(tmp_path / "ICFG_PEDES.json")
    status, lines = run(tmp_path, capsys, name="ICFG-PEDES")
    assert status == 0
    assert read_records(tmp_path, "val") == []
    assert not any("no val people" in line for line in lines)  # it has none
    assert any("no test people" in line for line in only(lines, "warning"))


@pytest.mark.parametrize("arguments", [["CUHK", "."], ["CUHK-PEDES", ".", "--workers", "0"], ["CUHK-PEDES"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_tells_each_option_by_its_own_text(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "--columns NAME=COLUMN [NAME=COLUMN ...] the table's names of image" in told
    assert "--images FOLDER folder of the pictures" in told


def test_failed_writing_keeps_the_earlier_files(tmp_path, capsys, monkeypatch):
    assert run(lay_out(tmp_path, small()), capsys)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "processed_data").iterdir()}
    lay_out(tmp_path, [*small(), entry("train", 9, "cam_a/9.png")])
    write_text = Path.write_text

    def full_disk(path, text, **options):
        if path.name == "val.json.tmp":
            raise OSError(28, "No space left on device", str(path))
        return write_text(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert "No space left on device" in only(lines, "error")[0]
    assert {path.name: path.read_bytes() for path in (tmp_path / "processed_data").iterdir()} == before


def script(arguments, folder, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_script_from_any_folder(tmp_path):
    """DIR is relative to the caller, whose own folder dataset/ must not be imported instead of ours."""
    (tmp_path / "data").mkdir()
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "__init__.py").write_text("raise SystemExit(9)")
    lay_out(tmp_path / "data", small())
    done = script(["CUHK-PEDES", "data", "--workers", "1"], tmp_path, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert len(read_records(tmp_path / "data", "train")) == 2
    done = script(["CUHK-PEDES", "nowhere"], tmp_path, PYTHON=sys.executable)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path}/nowhere: no such folder; it should hold reid_raw.json and imgs/"
    ]


@pytest.mark.parametrize(("python", "expected"), [("./mine", "mine"), ("", "active")])
def test_script_chooses_python(tmp_path, python, expected):
    """PYTHON= comes before the active environment's python; each is a stand-in that prints a word."""
    for path, word in ((tmp_path / "mine", "mine"), (tmp_path / "bin" / "python", "active")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {word} $*\n")
        path.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path), "PYTHON": python}
    done = script(["RSTPReid", "/data/r", "--workers", "2"], tmp_path, **environment)
    assert done.stdout.split() == [expected, "-m", "dataset.prepare", "RSTPReid", "/data/r", "--workers", "2"]
