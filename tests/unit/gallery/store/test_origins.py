"""Origins of rows: read back as written, kept through every change, absent from an index of plain pictures."""

import json
from datetime import datetime

import pytest

from gallery.store import writer as writer_module
from gallery.store.manifest import read_manifest
from gallery.store.origins import TrackKey
from gallery.store.segments import ImageFile, image_number
from gallery.store.store import Store
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import add, new_writer, origin, traces
from utils.errors import UserError

VIDEO = origin(frame=50, box=(1.5, 2.0, 30.25, 99.0), score=0.75, track=3)
PICTURE = origin('/rec/Tür "2".jpg', time_s=None, clock=None, score=None, track=None)
LATEST = origin(frame=2**40, clock=datetime(2026, 11, 20, 23, 59, 59, 999000))


def origins_of(store: Store) -> dict:
    return {image.path: store.origin(key) for key, image in store.images()}


@pytest.fixture
def writer(tmp_path):
    with new_writer(tmp_path / "index") as opened:
        yield opened


def test_what_is_written_comes_back(writer):
    add(writer, "a", 4, [VIDEO, None, PICTURE, LATEST])
    store = Store.open(writer.folder)
    assert origins_of(store) == {"a/0.jpg": VIDEO, "a/1.jpg": None, "a/2.jpg": PICTURE, "a/3.jpg": LATEST}
    assert [(info.source, info.crops, info.is_video) for info in store.sources] == [
        ('/rec/Tür "2".jpg', 1, False),
        ("/rec/cam1/0800.mp4", 2, True),
    ]
    assert (store.sources[0].first_clock, store.sources[0].last_clock) == (None, None)
    assert (store.sources[1].first_clock, store.sources[1].last_clock) == (VIDEO.clock, LATEST.clock)


def test_they_stay_through_joining_erasing_and_touching(writer, monkeypatch):
    monkeypatch.setattr(writer_module, "MANY_SMALL", 1)
    add(writer, "plain", 2)
    add(writer, "a", 2, [VIDEO, PICTURE])
    add(writer, "b", 1, [LATEST])
    wanted = origins_of(writer.store)
    writer.tidy()
    assert len(writer.store.segments) == 1
    assert origins_of(writer.store) == wanted
    writer.erase([writer.store.key_of(image_number("plain/0.jpg"))])
    assert origins_of(writer.store) == {path: own for path, own in wanted.items() if path != "plain/0.jpg"}
    segment = writer.write_segment(writer.store.manifest.next_serial)
    touched = {
        writer.store.key_of(image_number(f"a/{n}.jpg")): ImageFile(f"a/{n}.jpg", 1, 9, bytes(32)) for n in (0, 1)
    }
    writer.copy_rows(segment, touched, {"a/1.jpg": LATEST})  # one is known better by now
    writer.commit([segment.close()])
    assert origins_of(writer.store) == {"plain/1.jpg": None, "a/0.jpg": VIDEO, "a/1.jpg": LATEST, "b/0.jpg": LATEST}


def test_what_is_erased_leaves_no_source_behind(writer):
    add(writer, "a", 2, [VIDEO, PICTURE])
    assert "sources.json" in traces(writer.folder, "nothing", b"0800.mp4")
    writer.erase([writer.store.key_of(image_number("a/0.jpg"))])
    assert traces(writer.folder, "nothing", b"0800.mp4") == set()
    assert [info.source for info in writer.store.sources] == [PICTURE.source]


def test_an_index_of_plain_pictures_is_as_it_was(writer):
    """Its files have the names, and its manifest the keys, that earlier versions know."""
    add(writer, "a", 2)
    assert {path.name for path in (writer.folder / "segments" / "00000001").iterdir()} == {
        "vectors.f32",
        "records.bin",
        "paths.bin",
    }
    manifest = json.loads((writer.folder / "manifest.json").read_text())
    assert manifest["segments"] == [{"serial": 1, "rows": 2, "removed": []}]
    assert set(manifest) == {
        *("name", "root", "checkpoint", "config", "width", "token_shape", "engine"),
        *("segments", "next_serial", "excluded", "calibration", "format"),
    }
    assert read_manifest(writer.folder) == writer.store.manifest
    assert writer.store.sources == []


def test_tracks_are_listed_by_frame(writer):
    other = origin("/rec/cam2.mp4", 0, track=1)
    add(
        writer,
        "a",
        5,
        [origin(frame=frame, track=track) for frame, track in ((9, 1), (3, 1), (4, 2), (6, 1), (5, None))],
    )
    add(writer, "b", 3, [origin(frame=5, track=1), other, None])
    writer.commit(removed=[writer.store.key_of(image_number("a/3.jpg"))])

    def paths(source: str, track: int) -> list[str]:
        return [writer.store.image(key).path for key in writer.store.track(TrackKey(source, track))]

    assert paths(VIDEO.source, 1) == ["a/1.jpg", "b/0.jpg", "a/0.jpg"]
    assert paths(VIDEO.source, 2) == ["a/2.jpg"]
    assert paths("/rec/cam2.mp4", 1) == ["b/1.jpg"]
    assert paths(VIDEO.source, 7) == paths("/rec/nothing.mp4", 1) == []


def test_damage_is_told(writer):
    add(writer, "a", 2, [VIDEO, PICTURE])
    file = writer.folder / "segments" / "00000001" / "origins.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"origins\.bin is damaged"):
        Store.open(writer.folder)
    file.unlink()
    with pytest.raises(UserError, match="lacks files that its manifest names"):
        Store.open(writer.folder)


def test_a_killed_merge_keeps_the_old_state(tmp_path):
    with new_writer(tmp_path) as writer:
        add(writer, "a", 1, [VIDEO])
        writer.copy_rows(writer.write_segment(2), dict(writer.store.images()))  # never committed
    with StoreWriter(tmp_path) as writer:
        assert origins_of(writer.store) == {"a/0.jpg": VIDEO}
