"""Which files are meant."""

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
