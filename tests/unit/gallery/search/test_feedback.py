"""Marks: where they move a query, and which candidates leave it."""

import numpy as np
import pytest

from gallery.answers import CannotAnswer
from gallery.search.engines import open_engine
from gallery.search.feedback import DISLIKED_WEIGHT, LIKED_WEIGHT, Marks, marked_candidates, marks_of, moved
from gallery.search.live import View
from gallery.store.segments import ImageFile, image_id
from gallery.store.store import UnknownImage
from tests.helpers.gallery_store import WIDTH, new_writer, origin

AXES = np.eye(WIDTH, dtype=np.float32)
QUERY = AXES[0]


@pytest.fixture
def view(tmp_path):
    """Images on the axes 1, 2, 3 and between them; "b" and "b2" are of one track."""
    vectors = {"a": AXES[1], "a2": AXES[1] + 0.5 * AXES[4], "b": AXES[2] + AXES[0], "b2": AXES[2], "c": AXES[3]}
    with new_writer(tmp_path / "index") as writer:
        segment = writer.write_segment(writer.store.manifest.next_serial)
        unit = np.stack([vector / np.linalg.norm(vector) for vector in vectors.values()])
        origins = [origin(track=7) if name.startswith("b") else None for name in vectors]
        segment.append([ImageFile(name, 1, 1, bytes(32)) for name in vectors], unit, None, origins)
        writer.commit([segment.close()])
        yield View(writer.store, open_engine(writer.store), None)


def names(view: View, found) -> list[str]:
    return [view.store.image(each.found.key).path for each in found]


def test_a_query_moves_by_the_means_of_the_marks(view):
    marks = marks_of(view, [image_id("a"), image_id("b2"), image_id("a")], [image_id("c")])
    expected = AXES[0] + LIKED_WEIGHT * (AXES[1] + AXES[2]) / 2 - DISLIKED_WEIGHT * AXES[3]
    np.testing.assert_allclose(moved(QUERY, view.store, marks), expected / np.linalg.norm(expected), rtol=1e-6)
    assert moved(QUERY, view.store, Marks([], [])) is QUERY


def test_more_like_one_brings_its_like(view):
    before = marked_candidates(view, QUERY, 3, Marks([], []), where=None, group=False)
    after = marked_candidates(view, QUERY, 3, marks_of(view, [image_id("a")], []), where=None, group=False)
    assert names(view, before)[0] == "b"
    assert names(view, after)[:2] == ["a", "a2"]


@pytest.mark.parametrize("group", [True, False])
def test_disliked_images_leave_with_their_track(view, group):
    marks = marks_of(view, [], [image_id("b")])
    assert set(names(view, marked_candidates(view, QUERY, 3, marks, where=None, group=group))) == {"a", "a2", "c"}


def test_a_disliked_track_longer_than_the_answer_leaves_others(tmp_path):
    """Ten crops of one track come first; without groups, each of them would take a place of the answer."""
    vectors = np.repeat(AXES[:2], 10, axis=0)
    with new_writer(tmp_path / "index") as writer:
        segment = writer.write_segment(writer.store.manifest.next_serial)
        files = [ImageFile(f"{row}", 1, 1, bytes(32)) for row in range(20)]
        segment.append(files, vectors, None, [origin(track=7) if row < 10 else None for row in range(20)])
        writer.commit([segment.close()])
        opened = View(writer.store, open_engine(writer.store), None)
        marks = marks_of(opened, [], [image_id("0")])
        found = marked_candidates(opened, QUERY, 3, marks, where=None, group=False)
    assert set(names(opened, found)) <= {f"{row}" for row in range(10, 20)}
    assert len(found) >= 3


def test_marks_must_be_images_and_not_both(view):
    with pytest.raises(UnknownImage):
        marks_of(view, ["0" * 16], [])
    with pytest.raises(CannotAnswer, match="both as right and as wrong"):
        marks_of(view, [image_id("a")], [image_id("a")])
