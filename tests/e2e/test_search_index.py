"""What becomes of an index while its folder changes: search.py index, add and remove."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gallery import Gallery, update
from gallery.build import Request, add_images, build_index, remove_images
from gallery.encode import Encoder
from gallery.scan import Unreadable
from gallery.segments import image_id, image_number
from gallery.store import Store
from tests.conftest import read_split
from tests.helpers.paths import REPOSITORY
from tests.helpers.runs import refused
from tests.helpers.search_runs import answers, save_random_model, search_command
from utils.distributed import Process

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
CPU = Process(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def no_log_to_a_closed_stream():
    """A command's log goes to what standard error was in its test; calls of functions in the next one write there."""
    yield
    for handler in [h for h in logging.getLogger().handlers if "mamba-tbps" in (h.get_name() or "")]:
        logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def config(debug_config):
    return debug_config("eval.rerank_top_k=3", "dataset.cache=false")


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory):
    return save_random_model(tmp_path_factory.mktemp("model") / "best.pth", config)


@pytest.fixture(scope="module")
def images(tiny_benchmark):
    return tiny_benchmark / "imgs"


@pytest.fixture(scope="module")
def test_paths(tiny_benchmark):
    return [record["file_path"] for record in read_split(tiny_benchmark, "test")]


def test_a_folder_that_changes(checkpoint, images, tmp_path):
    folder, index = tmp_path / "images", tmp_path / "index"
    sources = sorted(images.rglob("*.jpg"))[:6]
    for name, source in zip(("a.jpg", "b.JPEG", "c/d.jpg", "c/e.jpg", "f.jpg"), sources[:5], strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    with Image.open(sources[5]) as picture:
        picture.save(folder / "g.png")
        picture.save(folder / "c" / "h.WEBP")
    (folder / "broken.jpg").write_bytes(sources[0].read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    request = Request(images=folder, checkpoint=checkpoint, index=index)
    first = build_index(request, CPU)
    assert (first.encoded, first.total) == (7, 7)
    assert [bad.path for bad in first.unreadable] == ["broken.jpg"]
    again = build_index(request, CPU)
    assert (again.encoded, again.unchanged, again.total) == (0, 7, 7)

    shutil.copy(sources[4], folder / "broken.jpg")  # repaired
    shutil.copy(sources[5], folder / "a.jpg")  # another picture
    os.utime(folder / "b.JPEG", ns=(1, 1))  # the same picture
    (folder / "f.jpg").unlink()
    (folder / "c" / "d.jpg").write_bytes(b"overwritten")
    changed = build_index(request, CPU)
    assert (changed.encoded, changed.touched, changed.unchanged, changed.total) == (2, 1, 3, 6)
    assert [bad.path for bad in changed.unreadable] == ["c/d.jpg"]
    now = {image.path for _, image in Store.open(index).images()}
    assert now == {"a.jpg", "b.JPEG", "broken.jpg", "c/e.jpg", "c/h.WEBP", "g.png"}
    gallery = Gallery.open(index, device="cpu")
    for path, source in (("a.jpg", sources[5]), ("b.JPEG", sources[1]), ("broken.jpg", sources[4])):
        with Image.open(source) as picture:
            similar = {hit.image_id: hit.similarity for hit in gallery.query_image(picture, top=6).hits}
        assert similar[image_id(path)] == pytest.approx(1, abs=1e-3)


def test_removed_images_stay_out_until_they_are_added(checkpoint, images, test_paths, tmp_path, capsys):
    folder, index = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "index"
    request = Request(images=folder, checkpoint=checkpoint, index=index, paths=test_paths)
    build_index(request, CPU)
    assert search_command(["remove", test_paths[0], str(folder / test_paths[1]), "--index", str(index)]) == 0
    assert len(Store.open(index)) == len(test_paths) - 2
    again = build_index(request, CPU)
    assert (again.encoded, again.total) == (0, len(test_paths) - 2)
    assert search_command(["add", test_paths[0], "--index", str(index)]) == 0
    assert len(Store.open(index)) == len(test_paths) - 1
    everything = len(list(folder.rglob("*.jpg")))
    assert add_images(index, [str(folder)], CPU).total == everything
    assert remove_images(index, [Path(test_paths[0]).parts[0]]) > 1
    assert len(Store.open(index)) < everything
    for command in ("add", "remove"):
        assert "is not below" in refused(search_command, [command, "/etc/passwd", "--index", str(index)], capsys)
    assert "nothing was removed" in refused(search_command, ["remove", "no.jpg", "--index", str(index)], capsys)


def test_an_interrupted_run_goes_on(checkpoint, images, test_paths, tmp_path, monkeypatch):
    monkeypatch.setattr(update, "FIRST_PART", 2)
    monkeypatch.setattr(update, "LARGEST_PART", 2)
    own = Encoder.images
    calls = []

    def interrupted(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(self, pixels)

    monkeypatch.setattr(Encoder, "images", interrupted)
    (tmp_path / "list.txt").write_text("\n".join(test_paths))
    command = ["index", "--images", str(images), "--checkpoint", str(checkpoint), "--index", str(tmp_path / "index")]
    assert search_command([*command, "--list", str(tmp_path / "list.txt")]) == 130
    assert len(Store.open(tmp_path / "index")) == 4
    report = build_index(Request(images=images, checkpoint=checkpoint, index=tmp_path / "index", paths=test_paths), CPU)
    assert (report.encoded, report.unchanged) == (len(test_paths) - 4, 4)
    assert sum(calls[3:]) == len(test_paths) - 4


@pytest.mark.slow
def test_two_processes_make_the_index_of_one(checkpoint, images, tmp_path):
    """Under torchrun, in parts of 4 images per process; the 27th image cannot be read."""
    folder = Path(shutil.copytree(images, tmp_path / "images"))
    (folder / "broken.jpg").write_bytes(b"no picture")
    common = ["--images", str(folder), "--checkpoint", str(checkpoint), "--tokens", "yes"]
    command = [*LAUNCHED, "-m", "tests.helpers.search_runs", "4", "index", *common, "--index", str(tmp_path / "two")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "26 images (26 encoded, 1 unreadable)" in done.stdout
    assert done.stdout.count("unreadable: broken.jpg") == 1  # only one process speaks
    assert search_command(["index", *common, "--index", str(tmp_path / "one")]) == 0
    one, two = Store.open(tmp_path / "one"), Store.open(tmp_path / "two")
    assert sorted(entry.rows for entry in two.manifest.segments) == [1, 2, 3, 4, 4, 4, 4, 4]
    keys = {image: key for key, image in two.images()}
    assert keys.keys() == {image for _, image in one.images()}
    for key, image in one.images():
        np.testing.assert_allclose(two.vector(keys[image]), one.vector(key), rtol=0, atol=1e-5)
        own, other = one.tokens(key), two.tokens(keys[image])
        assert own is not None
        assert other is not None
        np.testing.assert_allclose(other.astype(np.float32), own.astype(np.float32), rtol=0, atol=1e-2)


def test_the_bar_moves_with_every_batch(debug_config, images, tmp_path, monkeypatch):
    checkpoint = save_random_model(tmp_path / "best.pth", debug_config("eval.batch_size=8"))
    advanced: list[int] = []
    monkeypatch.setattr(update.progress, "advance", lambda _, units=1: advanced.append(units))
    build_index(Request(images=images, checkpoint=checkpoint, index=tmp_path / "index"), CPU)
    assert [units for units in advanced if units] == [8, 8, 8, 2]  # 26 images in batches of 8


# ---- nothing gets lost by mistake ----


@pytest.fixture
def eight(checkpoint, images, test_paths, tmp_path):
    """A request for eight images in two folders, already carried out."""
    folder = tmp_path / "images"
    for number, path in enumerate(test_paths):
        target = folder / ("a" if number < 5 else "b") / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(images / path, target)
    request = Request(images=folder, checkpoint=checkpoint, index=tmp_path / "index")
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
    os.utime(eight.images / "b" / "5.jpg", ns=(1, 1))  # has to be read again
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
    build_index(eight, CPU)  # takes out 5, 6, 7
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


def traces(folder: Path, name: str) -> set[str]:
    """Files of an index that hold an image's path or its number."""
    needles = (name.encode(), image_number(name).to_bytes(8, "little"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.name for path in files if any(needle in path.read_bytes() for needle in needles)}


def test_the_checkpoint_may_move(config, checkpoint, images, test_paths, tmp_path, capsys):
    own = Path(shutil.copy(checkpoint, tmp_path / "model.pth"))
    build_index(Request(images=images, checkpoint=own, index=tmp_path / "index", paths=test_paths), CPU)
    moved = own.rename(tmp_path / "moved.pth")
    message = refused(search_command, ["query", "a man", "--index", str(tmp_path / "index")], capsys)
    assert "say where it is now: --checkpoint" in message
    (answer,) = answers(capsys, "a man", "--index", str(tmp_path / "index"), "--checkpoint", str(moved))
    assert len(answer["hits"]) == len(test_paths)
    common = ["--index", str(tmp_path / "index")]
    missing = next(str(path.relative_to(images)) for path in sorted(images.rglob("*.jpg")))
    assert missing not in test_paths
    assert "say where it is now: --checkpoint" in refused(search_command, ["add", missing, *common], capsys)
    assert search_command(["add", missing, *common, "--checkpoint", str(moved)]) == 0
    assert len(Store.open(tmp_path / "index")) == len(test_paths) + 1
    assert len(answers(capsys, "a man", *common)[0]["hits"]) == len(test_paths) + 1  # it is known from now on
    other = save_random_model(tmp_path / "other.pth", config, seed=1)
    message = refused(search_command, ["add", missing, *common, "--checkpoint", str(other)], capsys)
    assert "is another one than this index was made with" in message
