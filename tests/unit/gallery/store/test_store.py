"""An index on disk: rows read back as written, and commits that readers see as a whole or not at all."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace

import numpy as np
import pytest

from gallery.store import store as store_module
from gallery.store import writer as writer_module
from gallery.store.manifest import CheckpointStamp, Manifest, read_manifest
from gallery.store.segments import ImageFile, image_id, image_number
from gallery.store.store import KEYS_PER_SEGMENT, Store
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import traces
from tests.helpers.paths import REPOSITORY
from utils.errors import UserError

WIDTH, TOKENS = 8, [3, 4]


def new_manifest(**changes) -> Manifest:
    stamp = CheckpointStamp(path="best.pth", sha256="0" * 64, size=1, mtime_ns=1)
    plain = Manifest(name="test", root="/images", checkpoint=stamp, config={"a": [1]}, width=WIDTH, token_shape=TOKENS)
    return replace(plain, **changes)


def image(path: str, time: int = 1) -> ImageFile:
    return ImageFile(path, 10, time, bytes(range(32)))


def vector(path: str) -> np.ndarray:
    return np.random.default_rng(image_number(path)).standard_normal(WIDTH, dtype=np.float32)


def add(writer: StoreWriter, *paths: str, removed: tuple[int, ...] = (), time: int = 1) -> None:
    segment = writer.write_segment(writer.store.manifest.next_serial)
    vectors = np.stack([vector(path) for path in paths])
    tokens = np.stack([np.full(TOKENS, image_number(path) % 1000) for path in paths])
    segment.append([image(path, time) for path in paths], vectors, tokens)
    writer.commit([segment.close()], removed=removed)


def contents(store: Store) -> dict[str, int]:
    """Times of the images by their paths; checks that every row belongs to its image."""
    found = {}
    for key, own in store.images():
        np.testing.assert_array_equal(store.vector(key), vector(own.path))
        tokens = store.tokens(key)
        assert tokens is not None
        assert tokens.shape == tuple(TOKENS)
        assert (tokens == np.float16(image_number(own.path) % 1000)).all()
        assert store.key_of(image_number(own.path)) == key
        found[own.path] = own.mtime_ns
    assert len(found) == len(store) == len(store.keys())
    return found


def test_rows_come_back_after_opening_again(tmp_path):
    with StoreWriter(tmp_path / "index", new_manifest()) as writer:
        assert len(writer.store) == 0
        add(writer, "a.jpg", "b/ü ber.PNG")
        add(writer, "c.jpg")
    store = Store.open(tmp_path / "index")
    assert contents(store) == {"a.jpg": 1, "b/ü ber.PNG": 1, "c.jpg": 1}
    assert store.image(store.key_of(image_number("c.jpg"))) == image("c.jpg")
    assert store.manifest.config == {"a": [1]}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_not_stored(tmp_path, value):
    with StoreWriter(tmp_path, new_manifest(token_shape=None)) as writer:
        segment = writer.write_segment(writer.store.manifest.next_serial)
        with pytest.raises(UserError, match="a vector of an image is not finite"):
            segment.append([image("a.jpg")], np.full((1, WIDTH), value, np.float32), None)
        assert segment.close().rows == 0


def test_an_image_that_is_added_again_replaces_itself(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg", "b.jpg")
        first = writer.store.key_of(image_number("a.jpg"))
        add(writer, "a.jpg", time=2)
        assert contents(writer.store) == {"a.jpg": 2, "b.jpg": 1}
        assert writer.store.key_of(image_number("a.jpg")) != first


def test_removed_rows_are_gone_and_an_empty_segment_leaves_the_disk(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg")
        add(writer, "b.jpg", "c.jpg")
        key_a, key_b = (writer.store.key_of(image_number(path)) for path in ("a.jpg", "b.jpg"))
        writer.commit(removed=[key_a, key_b])
        assert contents(writer.store) == {"c.jpg": 1}
        with pytest.raises(KeyError, match="not in the index"):
            writer.store.key_of(image_number("a.jpg"))
        assert [path.name for path in (tmp_path / "segments").iterdir()] == ["00000002"]
        add(writer, "d.jpg")
        assert divmod(writer.store.key_of(image_number("d.jpg")), KEYS_PER_SEGMENT) == (3, 0)  # no key twice


def test_many_small_segments_are_joined_and_worn_ones_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SEGMENT_ROWS", 3)
    monkeypatch.setattr(writer_module, "MANY_SMALL", 4)
    with StoreWriter(tmp_path, new_manifest()) as writer:
        paths = [f"{number}.jpg" for number in range(5)]
        for path in paths:
            add(writer, path)
        writer.tidy()
        assert [entry.rows for entry in writer.store.manifest.segments] == [3, 2]
        assert list(contents(writer.store)) == paths
        writer.commit(removed=writer.store.keys()[:1])
        writer.tidy()
        assert [(entry.rows, entry.removed) for entry in writer.store.manifest.segments] == [(2, []), (2, [])]
        assert set(contents(writer.store)) == set(paths[1:])
        before = writer.store.manifest
        writer.tidy()
        assert writer.store.manifest == before


def test_what_is_erased_is_in_no_file(tmp_path):
    def files_with(name: str) -> set[str]:
        return traces(tmp_path, name, vector(name).tobytes())

    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, *(f"{number}.jpg" for number in range(10)))
        add(writer, "x.jpg", "y.jpg")
        untouched = (tmp_path / "segments" / "00000002").stat().st_ino
        key = writer.store.key_of(image_number("3.jpg"))
        writer.commit(removed=[writer.store.key_of(image_number("7.jpg"))])  # is only marked
        assert files_with("7.jpg") == {"paths.bin", "records.bin", "vectors.f32"}
        writer.erase([key], excluded=["3.jpg"])
        assert files_with("3.jpg") == {"manifest.json"}  # the list of images that indexing leaves out
        assert files_with("7.jpg") == set()
        assert files_with("4.jpg") == {"paths.bin", "records.bin", "vectors.f32"}
        assert set(contents(writer.store)) == {*(f"{number}.jpg" for number in range(10)), "x.jpg", "y.jpg"} - {
            "3.jpg",
            "7.jpg",
        }
        assert [entry.removed for entry in writer.store.manifest.segments] == [[], []]
        assert (tmp_path / "segments" / "00000002").stat().st_ino == untouched
        before = writer.store.manifest
        writer.erase([])
        assert writer.store.manifest == before
        writer.erase(writer.store.keys())
        assert list((tmp_path / "segments").iterdir()) == []


def test_live_rows_are_told_from_others(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg", "b.jpg", "c.jpg")
        first = KEYS_PER_SEGMENT
        writer.commit(removed=[first + 1])
        assert [key in writer.store for key in range(first - 1, first + 4)] == [False, True, False, True, False]
        assert 2 * KEYS_PER_SEGMENT not in writer.store


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "segments" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds segments but no index: give a new or empty folder"):
        StoreWriter(tmp_path, new_manifest())
    assert (tmp_path / "segments" / "mine").is_dir()
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "index").mkdir()
    for left_by_a_crash in ("lock", "manifest.json.tmp"):
        (tmp_path / "index" / left_by_a_crash).touch()
    with StoreWriter(tmp_path / "index", new_manifest()) as writer:
        foreign = tmp_path / "index" / "segments" / "mine"
        foreign.mkdir(parents=True)
        add(writer, "a.jpg")
    with StoreWriter(tmp_path / "index"):
        assert foreign.is_dir()


def test_an_index_is_not_begun_again(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg")
    with pytest.raises(UserError, match="is an index already"):
        StoreWriter(tmp_path, new_manifest())
    assert contents(Store.open(tmp_path)) == {"a.jpg": 1}


def test_a_reader_keeps_what_it_opened(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg", "b.jpg")
        reader = Store.open(tmp_path)
        writer.commit(removed=reader.keys())
        assert contents(reader) == {"a.jpg": 1, "b.jpg": 1}
        assert len(Store.open(tmp_path)) == 0


def test_a_reader_that_meets_a_writer_reads_the_new_manifest(tmp_path, monkeypatch):
    """A writer replaces the files after the reader has read the manifest and before it opens them."""
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg", "b.jpg")
        old = read_manifest(tmp_path)
        add(writer, "c.jpg", removed=tuple(writer.store.keys().tolist()))
        answers = [old]
        monkeypatch.setattr(
            store_module, "read_manifest", lambda folder: answers.pop() if answers else read_manifest(folder)
        )
        assert contents(Store.open(tmp_path)) == {"c.jpg": 1}


def test_one_writer_at_a_time(tmp_path):
    with StoreWriter(tmp_path, new_manifest()):
        with pytest.raises(UserError, match="another process is changing"):
            StoreWriter(tmp_path)
        assert len(Store.open(tmp_path)) == 0  # readers do not wait
    with StoreWriter(tmp_path):
        pass


def test_what_a_crash_left_behind_is_deleted_by_the_next_writer(tmp_path):
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg")
        writer.write_segment(2).append([image("b.jpg")], np.zeros((1, WIDTH)), np.zeros((1, *TOKENS)))
    assert contents(Store.open(tmp_path)) == {"a.jpg": 1}
    with StoreWriter(tmp_path) as writer:
        assert not (tmp_path / "segments" / "00000002").exists()
        add(writer, "b.jpg")
        assert contents(writer.store) == {"a.jpg": 1, "b.jpg": 1}


def test_damage_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="is not an index; make one"):
        Store.open(tmp_path / "nothing")
    with StoreWriter(tmp_path, new_manifest()) as writer:
        add(writer, "a.jpg", "b.jpg")
    vectors = tmp_path / "segments" / "00000001" / "vectors.f32"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"vectors\.f32 is damaged \(60 bytes, not 64\)"):
        Store.open(tmp_path)
    vectors.unlink()
    with pytest.raises(UserError, match="lacks files that its manifest names"):
        Store.open(tmp_path)
    manifest = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest[:50])
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Store.open(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest.replace("index 1", "index 9"))
    with pytest.raises(UserError, match="of another version"):
        Store.open(tmp_path)


def test_image_ids_are_those_of_the_paths():
    assert image_id("a.jpg") == f"{image_number('a.jpg'):016x}"
    assert len({image_id(f"{number}.jpg") for number in range(1000)}) == 1000
    # SHA-256 of "a.jpg", so that an id stays valid over the years
    assert image_id("a.jpg") == "509b0d4641a7c3ba"


def test_a_killed_writer_leaves_the_old_or_the_new_index():
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # killing a process loses nothing that it wrote
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        command = [sys.executable, "-m", "tests.helpers.gallery_crash", f"{folder}/index", "20", "0"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["torch"] is False
    assert len(result["generations"]) == 20
    assert result["generations"] == sorted(result["generations"])  # nothing that was committed is lost
    assert result["generations"][-1] >= 39  # two commits at least before each kill
    assert result["half_written"] >= 5  # and kills happened in the middle of one


def test_reading_and_writing_loads_no_torch():
    modules = ("gallery.store.writer", "gallery.indexing.scan", "gallery.search.engines")
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
