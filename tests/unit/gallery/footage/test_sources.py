"""Which files are meant."""

import errno
import os
from pathlib import Path

import pytest

from gallery.footage.sources import find_sources
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.MP4", "notes.txt", "deep/c.avif", "deep/er/d.mkv", "crops/e.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")
    return tmp_path / "in"


def names(folder, *patterns):
    found = find_sources([str(folder / pattern) for pattern in patterns], outside=folder / "crops")
    return [source.path.relative_to(folder).as_posix() for source in found.sources]


def test_folders_files_and_globs(folder):
    assert names(folder, "") == ["a.jpg", "b.MP4", "deep/c.avif", "deep/er/d.mkv"]
    assert names(folder, "b.MP4", "deep/c.avif") == ["b.MP4", "deep/c.avif"]
    assert names(folder, "*.jpg", "a.jpg") == ["a.jpg"]
    assert names(folder, "**/*.mkv") == ["deep/er/d.mkv"]
    assert names(folder, "*") == ["a.jpg", "b.MP4", "deep/c.avif", "deep/er/d.mkv"]


def test_videos_and_other_files_are_told_apart(folder):
    found = find_sources([str(folder)], outside=folder / "crops")
    assert [source.is_video for source in found.sources] == [False, True, False, True]
    assert found.other_kinds == {".txt": 1}
    assert found.sources[0].size == 1


def test_a_name_with_the_signs_of_a_glob(folder):
    (folder / "cam[1].mp4").write_bytes(b"")
    assert names(folder, "cam[1].mp4") == ["cam[1].mp4"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing.mp4", "no such file"),
        ("*.mov", "no such file"),
        ("notes.txt", "neither a picture"),
        ("crops", "no picture"),
    ],
)
def test_what_is_not_there(folder, pattern, message):
    with pytest.raises(UserError, match=message):
        names(folder, pattern)


def test_what_cannot_be_looked_at_is_listed(folder, monkeypatch):
    (folder / "gone.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(folder / "pipe.mp4")  # opening it would block
    for name in (b"\xff.jpg", b"\xff"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("x")
    own = os.scandir

    def scandir(path):  # a missing permission would not stop root
        if Path(path) == folder / "deep" / "er":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return own(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_sources([str(folder)], outside=folder / "crops")
    assert [source.path.name for source in found.sources] == ["a.jpg", "b.MP4", "c.avif"]
    assert {(bad.path.relative_to(folder).as_posix(), bad.reason) for bad in found.bad} == {
        ("deep/er", "Permission denied"),
        ("nowhere.mp4", "No such file or directory"),
        ("circle.jpg", "Too many levels of symbolic links"),
        ("pipe.mp4", "it is not a file"),
        (r"\xff.jpg", "its name is not valid UTF-8; rename it"),
    }
    assert found.other_kinds == {".txt": 1, r"\xff": 1}


def test_a_file_that_is_deleted_while_the_folder_is_walked(folder, monkeypatch):
    own = Path.stat

    def stat(path, **options):
        if path.name == "a.jpg":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return own(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    found = find_sources([str(folder)], outside=folder / "crops")
    assert [bad.path.name for bad in found.bad] == ["a.jpg"]
    assert len(found.sources) == 3
