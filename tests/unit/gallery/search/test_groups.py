"""Groups: one result per track, near copies folded in, counts and spans of what passes the filter."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from gallery.footage.origin import Origin
from gallery.search import groups as groups_module
from gallery.search.engines import open_engine
from gallery.search.filters import Filter
from gallery.search.groups import NEAR_COPY, describe_groups, nearest_groups
from gallery.search.live import View
from gallery.search.ranking import candidates, hits_of
from gallery.search.tracks import track_around
from gallery.store.segments import ImageFile, image_id
from gallery.store.writer import StoreWriter
from tests.helpers.gallery_store import WIDTH, new_writer, origin

QUERY = np.eye(WIDTH, dtype=np.float32)[0]
EIGHT = origin().clock


def at(similarity: float, other: int) -> np.ndarray:
    """A unit vector with this similarity to the query; two of different `other` have the product of theirs."""
    vector = np.zeros(WIDTH, np.float32)
    vector[0], vector[other] = similarity, (1 - similarity**2) ** 0.5
    return vector


def add(writer: StoreWriter, rows: dict[str, tuple[np.ndarray, Origin | None]]) -> None:
    segment = writer.write_segment(writer.store.manifest.next_serial)
    images = [ImageFile(path, 1, 1, bytes(32)) for path in rows]
    segment.append(images, np.stack([vector for vector, _ in rows.values()]), None, [own for _, own in rows.values()])
    writer.commit([segment.close()])


@pytest.fixture
def view(tmp_path):
    """Tracks 1 (nearest) and 2 of one video, track 1 of another, a picture and its copy, and a plain picture."""
    with new_writer(tmp_path / "index") as writer:
        add(writer, {f"a{n}": (at(0.9 - n / 100, 1 + n % 3), origin(frame=25 * n, track=1)) for n in range(6)})
        add(
            writer,
            {
                "b": (at(0.7, 5), origin(frame=100, track=2)),
                "c": (at(0.6, 6), origin("/rec/cam2.mp4", 50, track=1)),
                "a6": (at(0.3, 7), origin(frame=25 * 6, track=1)),
            },
        )
        picture = origin("/rec/day.jpg", time_s=None, clock=None, track=None)
        add(writer, {"d": (at(0.5, 8), picture), "copy of d": (at(0.499, 8), picture), "plain": (at(0.4, 9), None)})
        yield View(writer.store, open_engine(writer.store), None)


def names(view: View, keys: Sequence[int]) -> list[str]:
    return [view.store.image(key).path for key in keys]


def test_a_track_is_one_group_and_copies_are_folded_in(view):
    found = nearest_groups(view, QUERY, 10)
    assert names(view, [group.key for group in found]) == ["a0", "b", "c", "d", "plain"]
    assert [group.similarity for group in found] == pytest.approx([0.9, 0.7, 0.6, 0.5, 0.4])
    assert names(view, found[3].copies) == ["copy of d"]
    described = describe_groups(view.store, found)
    assert [group.num_images for group in described] == [7, 1, 1, 2, 1]
    assert (described[0].start_s, described[0].end_s) == (0.0, 6.0)  # a6 counts, which lies behind all others
    assert (described[0].start_clock, described[0].end_clock) == (EIGHT, EIGHT + timedelta(seconds=6))
    assert described[3] == (2, None, None, None, None, (image_id("copy of d"),))
    assert described[4] == (1, None, None, None, None, ())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_number_of_groups_is_the_one_asked_for(view, count, monkeypatch):
    """However few rows are looked at first."""
    monkeypatch.setattr(groups_module, "LOOK_FIRST", 1)
    monkeypatch.setattr(groups_module, "LOOK_FURTHER", 2)
    found = nearest_groups(view, QUERY, count)
    assert names(view, [group.key for group in found]) == ["a0", "b", "c", "d", "plain"][:count]


def test_no_more_rows_are_looked_at_than_allowed(view, monkeypatch):
    monkeypatch.setattr(groups_module, "MOST_LOOKED_AT", 7)  # six of the first track
    assert names(view, [group.key for group in nearest_groups(view, QUERY, 5)]) == ["a0", "b"]


def test_groups_hold_what_passes_the_filter(view):
    where = Filter(after=EIGHT + timedelta(seconds=2), sources=("cam1",))
    found = nearest_groups(view, QUERY, 10, where)
    assert names(view, [group.key for group in found]) == ["a2", "b"]
    first, second = describe_groups(view.store, found, where)
    assert (first.num_images, first.start_s, first.end_s) == (5, 2.0, 6.0)
    assert (second.num_images, second.start_s, second.end_s) == (1, 4.0, 4.0)


def test_near_copies_of_other_tracks_are_one_group(tmp_path):
    """Say, of a person whose track broke off; just below the threshold they stay apart."""

    def turned(cosine: float) -> np.ndarray:
        vector = np.zeros(WIDTH, np.float32)
        vector[1], vector[2] = cosine, (1 - cosine**2) ** 0.5
        return vector

    with new_writer(tmp_path / "index") as writer:
        add(
            writer,
            {
                "a": (turned(1), origin(frame=0, track=1)),
                "b": (turned(NEAR_COPY + 0.001), origin(frame=9, track=2)),
                "b2": (at(0, 6), origin(frame=10, track=2)),
                "c": (turned(NEAR_COPY - 0.001), origin(frame=5, track=3)),
            },
        )
        view = View(writer.store, open_engine(writer.store), None)
        found = nearest_groups(view, turned(1), 9)
        assert names(view, [group.key for group in found]) == ["a", "c"]
        first = describe_groups(view.store, found)[0]
        assert (first.num_images, first.near_copies) == (3, (image_id("b"),))
        assert (first.start_s, first.end_s) == (0.0, 0.0)  # of the hit's own track


def test_hits_in_groups_and_flat(view):
    grouped, flat = (
        hits_of(view, candidates(view, QUERY, 20, where=None, group=group), where=None, group=group)
        for group in (True, False)
    )
    assert [hit.path.name for hit in grouped] == ["a0", "b", "c", "d", "plain"]
    assert len(flat) == len(view.store)
    assert all(hit.group is None for hit in flat)
    assert [hit._replace(group=None) for hit in grouped] == [
        hit for hit in flat if hit.path.name in ("a0", "b", "c", "d", "plain")
    ]
    assert grouped[4].origin is None
    assert grouped[2].origin == origin("/rec/cam2.mp4", 50, track=1)


def test_the_crops_around_one(view):
    keys = {image.path: key for key, image in view.store.images()}

    def around(name: str, limit: int) -> tuple[list[str], int, int]:
        track = track_around(view, keys[name], limit)
        assert track is not None
        own = {image_id(path): path for path in keys}
        assert all(crop.origin == view.store.origin(keys[own[crop.image_id]]) for crop in track.crops)
        return [own[crop.image_id] for crop in track.crops], track.position, track.total

    everything = [f"a{n}" for n in range(7)]
    assert around("a3", 100) == (everything, 3, 7)
    assert around("a3", 3) == (["a2", "a3", "a4"], 1, 7)
    assert around("a0", 3) == (["a0", "a1", "a2"], 0, 7)
    assert around("a6", 3) == (["a4", "a5", "a6"], 2, 7)
    assert around("a6", 1) == (["a6"], 0, 7)
    assert around("d", 9) == (["d"], 0, 1)
    assert track_around(view, keys["plain"], 9) is None
