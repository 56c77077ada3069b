"""Forgetting what is older than a date: rows, vectors and files, with a ledger of crops and without; kills."""

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from gallery.footage.ledger import Ledger
from gallery.footage.sources import source_at
from gallery.footage.table import FILE as TABLE
from gallery.footage.table import Crop, read_table, write_rows
from gallery.indexing import removal
from gallery.indexing.removal import finish_deleting, forget_before, remove_images
from gallery.store.manifest import CheckpointStamp, Manifest, read_manifest
from gallery.store.segments import ImageFile
from gallery.store.store import Store
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import WIDTH, origin, traces
from tests.helpers.paths import REPOSITORY
from utils.errors import UserError

pytest.importorskip("pyarrow", reason="requirements-video.txt not installed")

BEFORE = datetime(2026, 11, 20, 8)
TIMES = {
    "old.jpg": -60.0,
    "a/older.jpg": -3600.0,
    "at.jpg": 0.0,
    "young.jpg": 60.0,
    "timeless.jpg": None,
    "plain.jpg": None,
}


@pytest.fixture
def crops(tmp_path) -> Path:
    """Two old crops, one from the very time, one young, one whose time is not known, and a plain picture."""
    folder = tmp_path / "crops"
    (folder / "a").mkdir(parents=True)
    table = []
    for row, (path, seconds) in enumerate(TIMES.items()):
        (folder / path).write_text(path)
        clock = None if seconds is None else BEFORE + timedelta(seconds=seconds)
        if path != "plain.jpg":
            table.append(Crop(path, origin(frame=row, clock=clock)))
    write_rows(folder / TABLE, table)
    return folder


@pytest.fixture
def index(tmp_path, crops) -> Path:
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    manifest = Manifest(name="test", root=str(crops), checkpoint=stamp, config={}, width=WIDTH, token_shape=None)
    origins, vectors = read_table(crops), np.arange(len(TIMES) * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    with StoreWriter(tmp_path / "index", manifest) as writer:
        segment = writer.write_segment(1)
        images = [ImageFile(path, 1, 1, bytes(32)) for path in TIMES]
        segment.append(images, vectors, None, [origins.get(path) for path in TIMES])
        writer.commit([segment.close()])
    return tmp_path / "index"


def rows_of(index: Path) -> list[str]:
    return [image.path for _, image in Store.open(index).images()]


def files_of(crops: Path) -> list[str]:
    return sorted(path.relative_to(crops).as_posix() for path in crops.rglob("*.jpg"))


def test_rows_and_vectors_older_than_a_time_are_erased_and_files_stay(index, crops):
    vector = np.arange(WIDTH, dtype=np.float32).tobytes()  # of old.jpg
    assert traces(index, "old.jpg", vector) >= {"vectors.f32", "paths.bin"}
    assert forget_before(index, BEFORE, crops=False) == (2, 0, 2, 4)
    assert rows_of(index) == ["at.jpg", "young.jpg", "timeless.jpg", "plain.jpg"]
    assert traces(index, "old.jpg", vector) == {"manifest.json"}  # in the list of images that indexing leaves out
    assert read_manifest(index).excluded == ["a/older.jpg", "old.jpg"]
    assert files_of(crops) == sorted(TIMES)
    assert forget_before(index, BEFORE, crops=False) == (0, 0, 2, 4)


def test_files_are_deleted_on_request_with_their_rows_in_the_table(index, crops):
    remove_images(index, ["old.jpg"])  # out of the index, but the crop is there and old
    assert forget_before(index, BEFORE, crops=True) == (1, 2, 2, 4)
    assert files_of(crops) == ["at.jpg", "plain.jpg", "timeless.jpg", "young.jpg"]
    assert list(read_table(crops)) == ["at.jpg", "young.jpg", "timeless.jpg"]
    manifest = read_manifest(index)
    assert (manifest.to_delete, manifest.excluded) == ([], ["old.jpg"])
    assert "to_delete" not in (index / "manifest.json").read_text()  # earlier versions read the index
    assert traces(index, "a/older.jpg") == set()


def test_the_cropper_does_not_bring_them_back(index, crops, tmp_path):
    """Its ledger forgets the crops and still knows that their source is done."""
    (crops / TABLE).unlink()
    own = origin()
    with Ledger(tmp_path / "own") as ledger:
        (tmp_path / "a.mp4").touch()
        source = source_at(tmp_path / "a.mp4")
        entry = ledger.begin(source, "settings")
        for path, seconds in TIMES.items():
            (tmp_path / "own" / "a").mkdir(exist_ok=True)
            (tmp_path / "own" / path).write_text(path)
            clock = None if seconds is None else BEFORE + timedelta(seconds=seconds)
            ledger.add(entry, [Crop(path, own._replace(source=str(tmp_path / "a.mp4"), clock=clock))], 9)
        ledger.finish(entry, {})
        ledger.write_table()
    with StoreWriter(index) as writer:
        writer.commit(root=str(tmp_path / "own"))
    assert forget_before(index, BEFORE, crops=True).files == 2
    assert files_of(tmp_path / "own") == ["at.jpg", "plain.jpg", "timeless.jpg", "young.jpg"]
    with Ledger(tmp_path / "own") as ledger:
        assert ledger.entry(source, "settings").done
        assert ledger.write_table() == 4


def test_nothing_is_forgotten_while_a_run_crops_into_the_folder(index, tmp_path):
    own = tmp_path / "own"
    with Ledger(own):
        (own / "old.jpg").write_text("x")
        write_rows(own / TABLE, [Crop("old.jpg", origin(clock=BEFORE - timedelta(days=1)))])
        with StoreWriter(index) as writer:
            writer.commit(root=str(own))
        before = (index / "manifest.json").read_bytes()
        with pytest.raises(UserError, match="another process crops into"):
            forget_before(index, BEFORE, crops=True)
        assert (index / "manifest.json").read_bytes() == before
        assert rows_of(index) == list(TIMES)
        assert files_of(own) == list(read_table(own)) == ["old.jpg"]
    assert forget_before(index, BEFORE, crops=True).images == 2


@pytest.mark.parametrize("change", [lambda index: remove_images(index, []), finish_deleting])
def test_a_deletion_that_was_broken_off_goes_on_with_the_next_change(index, crops, monkeypatch, change):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(removal, "_delete_files", killed)
        with pytest.raises(KeyboardInterrupt):
            forget_before(index, BEFORE, crops=True)
    assert rows_of(index) == ["at.jpg", "young.jpg", "timeless.jpg", "plain.jpg"]  # the new state
    assert files_of(crops) == sorted(TIMES)
    assert read_manifest(index).to_delete == ["a/older.jpg", "old.jpg"]
    change(index)
    assert files_of(crops) == ["at.jpg", "plain.jpg", "timeless.jpg", "young.jpg"]
    assert read_manifest(index).to_delete == []


def test_what_is_refused_changes_nothing(index, crops, tmp_path):
    with pytest.raises(UserError, match="without a time zone"):
        forget_before(index, datetime.fromisoformat("2026-11-20T08:00+01:00"), crops=True)
    with pytest.raises(UserError, match="is not an index"):
        forget_before(tmp_path / "nothing", BEFORE, crops=True)
    outside = tmp_path / "precious.jpg"
    outside.touch()
    write_rows(crops / TABLE, [Crop("../precious.jpg", origin(clock=BEFORE - timedelta(days=1)))])
    with pytest.raises(UserError, match="is not below"):
        forget_before(index, BEFORE, crops=True)
    assert outside.exists()
    crops.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not there, so that no file in it can be deleted; nothing was forgotten"):
        forget_before(index, BEFORE, crops=True)
    assert rows_of(index) == list(TIMES)


def test_killed_at_many_moments_it_leaves_the_old_or_the_new_state():
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # killing a process loses nothing that it wrote
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        command = [sys.executable, "-m", "tests.helpers.forget_crash", folder, "8"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["torch"] is False
    assert len(result["states"]) >= 1
    assert set(result["states"]) <= {"old", "new", "new, files left"}
