"""Which images a folder holds and how it differs from an index."""

import errno
import os
from pathlib import Path

import pytest

from gallery.indexing.scan import (
    FoundImage,
    Unreadable,
    compare,
    listed,
    not_looked_at,
    not_read,
    relative,
    sha256_of,
    walk,
)
from gallery.store.manifest import CheckpointStamp, Manifest
from gallery.store.segments import ImageFile
from gallery.store.writer import StoreWriter
from utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for name in ("b.jpg", "a.PNG", "deep/er/c.JPeG", "deep/d.webp", "notes.txt", "deep/e.gif", "jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_pictures_are_found_by_the_ends_of_their_names(folder):
    found = walk(folder)
    assert [image.path for image in found.images] == ["a.PNG", "b.jpg", "deep/d.webp", "deep/er/c.JPeG"]
    assert found.images[1] == FoundImage("b.jpg", 5, os.stat(folder / "b.jpg").st_mtime_ns)
    assert found.unreadable == []
    assert found.other_kinds == {".gif": 1}


def test_pictures_of_kinds_that_are_not_read_are_counted(folder):
    for name in ("1.bmp", "2.BMP", "deep/3.bmp", "4.tiff", "5.avif", "6.mp4", "7.json"):
        (folder / name).write_text(name)
    told = "1 .avif, 3 .bmp, 1 .gif, 1 .tiff not read: convert them to jpg, png or webp"
    assert not_read(walk(folder).other_kinds) == told
    assert not_read(listed(folder, ["b.jpg"]).other_kinds) == ""


def test_links_are_not_followed_in_circles(folder):
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "self.jpg").symlink_to("self.jpg")
    found = walk(folder)
    assert [image.path for image in found.images] == ["a.PNG", "b.jpg", "deep/d.webp", "deep/er/c.JPeG"]
    assert [(bad.path, bad.reason) for bad in found.unreadable] == [("self.jpg", "Too many levels of symbolic links")]


def test_names_and_links_that_cannot_be_read_are_listed(folder):
    os.symlink(folder / "nowhere", folder / "link.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_text("x")
    assert {bad.reason for bad in walk(folder).unreadable} == {
        "No such file or directory",
        "its name is not valid UTF-8; rename it",
    }
    assert not any(bad.keep for bad in walk(folder).unreadable)


def test_a_folder_that_cannot_be_listed_is_told(folder, monkeypatch):
    cannot_list(monkeypatch, folder / "deep" / "er")
    found = walk(folder)
    assert [image.path for image in found.images] == ["a.PNG", "b.jpg", "deep/d.webp"]
    assert found.unreadable == [Unreadable("deep/er", "Permission denied", keep=True)]
    monkeypatch.chdir(folder)
    assert walk(Path(".")).unreadable == found.unreadable


def cannot_list(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Imitate a missing permission, which would not stop root."""
    own = os.scandir

    def scandir(path):
        if os.path.abspath(path) == str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return own(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_list_of_paths(folder):
    found = listed(folder, ["deep/d.webp", str(folder / "b.jpg"), "./b.jpg", "missing.jpg"])
    assert [image.path for image in found.images] == ["b.jpg", "deep/d.webp"]
    assert [bad.path for bad in found.unreadable] == ["missing.jpg"]
    for path in ("../other.jpg", "/etc/passwd", "deep/../../x.jpg"):
        with pytest.raises(UserError, match="is not below"):
            listed(folder, [path])
    assert relative(folder, str(folder)) == relative(folder, ".") == ""
    with pytest.raises(UserError, match="is not a folder"):
        walk(folder / "b.jpg")


def test_images_that_cannot_be_looked_at_are_kept(folder, tmp_path, monkeypatch):
    with StoreWriter(tmp_path / "index", manifest_of(folder)) as writer:
        segment = writer.write_segment(1)
        names = ["a.PNG", "deep/er/c.JPeG", "deep/er/x/gone.jpg", "deep/err.jpg", "gone.jpg"]
        segment.append([ImageFile(name, 1, 1, bytes(32)) for name in names], [[0.0]] * 5, None)
        writer.commit([segment.close()])
        keys = {image.path: key for key, image in writer.store.images()}
        cannot_list(monkeypatch, folder / "deep" / "er")
        changes = compare(writer.store, walk(folder), folder)
        assert changes.gone == [keys["deep/err.jpg"], keys["gone.jpg"]]
        assert changes.kept == 2
        cannot_list(monkeypatch, folder)
        nothing = walk(folder)
        assert (nothing.images, [bad.path for bad in nothing.unreadable]) == ([], ["."])
        assert compare(writer.store, nothing, folder)[2:] == ([], 0, 5)


@pytest.mark.parametrize(
    ("error", "keep"), [(errno.ENOENT, False), (errno.ENOTDIR, False), (errno.EACCES, True), (errno.EIO, True)]
)
def test_only_a_missing_file_is_gone(error, keep):
    assert not_looked_at("a.jpg", OSError(error, os.strerror(error))) == ("a.jpg", os.strerror(error), keep)


def manifest_of(folder: Path) -> Manifest:
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    return Manifest(name="test", root=str(folder), checkpoint=stamp, config={}, width=1, token_shape=None)


def test_changes_are_told_from_touches(folder, tmp_path):
    with StoreWriter(tmp_path / "index", manifest_of(folder)) as writer:
        segment = writer.write_segment(1)
        known = [ImageFile(*image, sha256_of(folder / image.path) or b"") for image in walk(folder).images]
        gone = ImageFile("gone.jpg", 1, 1, bytes(32))
        segment.append([*known, gone], [[0.0]] * 5, None)
        writer.commit([segment.close()])
        keys = {image.path: key for key, image in writer.store.images()}

        os.utime(folder / "a.PNG", ns=(5, 5))  # another time, the same content
        (folder / "b.jpg").write_text("B.jpg")  # the same size, other content
        (folder / "deep/d.webp").write_text("longer than before")
        (folder / "new.jpg").write_text("new")
        changes = compare(writer.store, walk(folder), folder)
        assert changes.encode == ["b.jpg", "deep/d.webp", "new.jpg"]
        assert changes.touched == {keys["a.PNG"]: ImageFile("a.PNG", 5, 5, sha256_of(folder / "a.PNG"))}
        assert changes.gone == [keys["gone.jpg"]]
        assert changes.unchanged == 1
        some = compare(writer.store, listed(folder, ["new.jpg"]), folder, within=frozenset({"new.jpg"}))
        assert (some.encode, some.gone, some.unchanged) == (["new.jpg"], [], 0)
