"""An index follows its folder: search.py index, add and remove."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery import Gallery
from gallery.encoding.encoder import Encoder
from gallery.indexing import encode_parts
from gallery.indexing.commands import add_images, build_index
from gallery.indexing.removal import remove_images
from gallery.indexing.request import IndexingRequest
from gallery.store.segments import image_id
from gallery.store.store import Store
from tests.helpers.paths import REPOSITORY
from tests.helpers.runs import refused
from tests.helpers.saved_models import save_search_model
from tests.helpers.search_runs import CPU, answers, search_command

LAUNCHED = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


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
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=index)
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
    request = IndexingRequest(images=folder, checkpoint=checkpoint, index=index, paths=test_paths)
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
    monkeypatch.setattr(encode_parts, "FIRST_PART", 2)
    monkeypatch.setattr(encode_parts, "LARGEST_PART", 2)
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
    report = build_index(
        IndexingRequest(images=images, checkpoint=checkpoint, index=tmp_path / "index", paths=test_paths), CPU
    )
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
    assert done.stdout.count("unreadable: broken.jpg") == 1  # only the main process prints
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
    checkpoint = save_search_model(debug_config("eval.batch_size=8"), tmp_path / "best.pth")
    advanced: list[int] = []
    monkeypatch.setattr(encode_parts.progress, "advance", lambda _, units=1: advanced.append(units))
    build_index(IndexingRequest(images=images, checkpoint=checkpoint, index=tmp_path / "index"), CPU)
    assert [units for units in advanced if units] == [8, 8, 8, 2]  # 26 images in batches of 8


def test_the_checkpoint_may_move(config, checkpoint, images, test_paths, tmp_path, capsys):
    own = Path(shutil.copy(checkpoint, tmp_path / "model.pth"))
    build_index(IndexingRequest(images=images, checkpoint=own, index=tmp_path / "index", paths=test_paths), CPU)
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
    assert len(answers(capsys, "a man", *common)[0]["hits"]) == len(test_paths) + 1  # the index remembers its place
    other = save_search_model(config, tmp_path / "other.pth", seed=1)
    message = refused(search_command, ["add", missing, *common, "--checkpoint", str(other)], capsys)
    assert "is another one than this index was made with" in message
