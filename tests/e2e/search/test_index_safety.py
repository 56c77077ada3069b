"""An index loses nothing by mistake, and removed images leave the disk."""

import errno
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gallery import Gallery
from gallery.indexing.commands import build_index
from gallery.indexing.request import IndexingRequest
from gallery.indexing.scan import Unreadable
from gallery.store.segments import image_id
from gallery.store.store import Store
from tests.helpers.gallery_store import traces
from tests.helpers.runs import refused
from tests.helpers.search_runs import CPU, search_command

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture
def eight(checkpoint, images, test_paths, tmp_path):
    """A request for eight images in two folders, already carried out."""
    folder = tmp_path / "images"
    for number, path in enumerate(test_paths):
        target = folder / ("a" if number < 5 else "b") / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(images / path, target)
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=tmp_path / "index")
    assert build_index(request, CPU).total == 8
    return request


def test_a_wrong_folder_or_a_missing_disk_empties_no_index(eight, images, capsys):
    manifest = eight.index / "manifest.json"
    before = manifest.read_bytes()
    common = ["index", "--checkpoint", str(eight.checkpoint), "--index", str(eight.index), "--images"]
    message = refused(search_command, [*common, str(images)], capsys)
    assert f"is of the folder {eight.images}, not of {images.resolve()}" in message
    assert "--prune" in message
    shutil.move(eight.images / "a", eight.images.parent / "a")
    message = refused(search_command, [*common, str(eight.images)], capsys)
    assert f"5 of the 8 images of {eight.index} are not found any more" in message
    shutil.move(eight.images / "b", eight.images.parent / "b")  # an empty mount point
    message = refused(search_command, [*common, str(eight.images)], capsys)
    assert f"no image was found below {eight.images}, and {eight.index} has 8" in message
    assert manifest.read_bytes() == before
    assert len(list((eight.index / "segments").iterdir())) == 1

    moved = eight.images.parent / "moved"
    shutil.move(eight.images.parent / "b", moved / "b")
    assert search_command([*common, str(moved), "--prune"]) == 0
    assert "3 images (3 unchanged, 5 removed)" in capsys.readouterr().out
    assert Store.open(eight.index).manifest.root == str(moved)
    shutil.rmtree(moved / "b")
    assert build_index(replace(eight, images=moved, prune=True), CPU).total == 0


def test_less_than_half_goes_unasked(eight):
    shutil.rmtree(eight.images / "b")
    report = build_index(eight, CPU)
    assert (report.removed, report.total) == (3, 5)


def test_what_cannot_be_looked_at_is_kept(eight, monkeypatch, capsys):
    own_scandir, own_read = os.scandir, Path.read_bytes

    def scandir(path):
        if str(path) == str(eight.images / "a"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return own_scandir(path)

    def read_bytes(path):
        if path.name == "5.jpg":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return own_read(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    os.utime(eight.images / "b" / "5.jpg", ns=(1, 1))  # so that it is read again
    (eight.images / "b" / "6.jpg").unlink()
    report = build_index(eight, CPU)
    assert (report.kept, report.removed, report.unchanged, report.total) == (5, 1, 1, 7)
    assert report.unreadable == [
        Unreadable("a", "Permission denied", keep=True),
        Unreadable("b/5.jpg", "Input/output error", keep=True),
    ]
    command = ["index", "--images", str(eight.images), "--checkpoint", str(eight.checkpoint)]
    assert search_command([*command, "--index", str(eight.index)]) == 0
    shown = capsys.readouterr().out
    assert "7 images (1 unchanged, 5 kept unseen, 2 unreadable)" in shown
    assert "unreadable: a: Permission denied" in shown


def test_a_foreign_folder_is_no_place_for_an_index(eight, tmp_path, capsys):
    (tmp_path / "work" / "segments").mkdir(parents=True)
    (tmp_path / "work" / "segments" / "mine.txt").write_text("years of work")
    command = ["index", "--images", str(eight.images), "--checkpoint", str(eight.checkpoint)]
    message = refused(search_command, [*command, "--index", str(tmp_path / "work")], capsys)
    assert "holds segments but no index" in message
    assert (tmp_path / "work" / "segments" / "mine.txt").read_text() == "years of work"


# ---- removing ----


def test_removed_images_leave_the_disk_and_a_running_search(eight, capsys):
    gallery = Gallery.open(eight.index, device="cpu")
    assert len(gallery.query("a man", top=20).hits) == 8
    shutil.rmtree(eight.images / "b")
    build_index(eight, CPU)  # removes 5, 6, 7
    gone = image_id("a/2.jpg")
    assert gallery.image(gone).path == eight.images / "a" / "2.jpg"
    assert search_command(["remove", "a/2.jpg", "--index", str(eight.index)]) == 0
    assert {hit.path.name for hit in gallery.query("a man", top=20).hits} == {"0.jpg", "1.jpg", "3.jpg", "4.jpg"}
    for ask in (gallery.image, gallery.query_similar, lambda name: gallery.explain("a man", name)):
        with pytest.raises(KeyError, match=r"is not in the index"):
            ask(gone)
    assert traces(eight.index, "a/2.jpg") == {"manifest.json"}  # so that `index` leaves it out
    assert traces(eight.index, "b/5.jpg") == set()
    (eight.images / "a" / "3.jpg").unlink()
    build_index(eight, CPU)
    assert traces(eight.index, "a/3.jpg") >= {"paths.bin", "records.bin"}
    capsys.readouterr()
    assert search_command(["remove", "--index", str(eight.index)]) == 0
    assert capsys.readouterr().out == "nothing removed is left\n"
    assert traces(eight.index, "a/3.jpg") == set()
    assert len(gallery) == 3
