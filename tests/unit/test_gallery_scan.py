"""What a folder holds and how it differs from an index."""

import os
from pathlib import Path

import pytest

from gallery.manifest import CheckpointStamp, Manifest
from gallery.scan import FoundImage, compare, listed, relative, sha256_of, walk
from gallery.segments import ImageFile
from gallery.store import StoreWriter
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


def test_names_and_links_that_cannot_be_read_are_listed(folder):
    os.symlink(folder / "nowhere", folder / "link.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_text("x")
    assert {bad.reason for bad in walk(folder).unreadable} == {
        "No such file or directory",
        "its name is not valid UTF-8; rename it",
    }


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


def test_changes_are_told_from_touches(folder, tmp_path):
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    manifest = Manifest(name="test", root=str(folder), checkpoint=stamp, config={}, width=1, token_shape=None)
    with StoreWriter(tmp_path / "index", manifest) as writer:
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
