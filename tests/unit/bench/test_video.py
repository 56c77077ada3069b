"""What bench/video.py counts, by hand."""

import pytest

from gallery.footage.origin import Origin

pytest.importorskip("cv2", reason="requirements-video.txt not installed")

from bench.video import quality, sighted

BOXES = [
    {"frame": frame, "person": person, "box": [100 * person, 0, 100 * person + 40, 90], "in_view": in_view}
    for frame in (0, 5)
    for person, in_view in ((0, 1.0), (1, 0.9), (2, 0.2))
]


def crop_of(frame: int, x: float, track: int) -> Origin:
    return Origin("a.mp4", frame, frame / 10, None, (x, 0.0, x + 40, 90.0), (640, 360), 0.5, track)


def test_a_crop_shows_the_person_whom_its_box_covers():
    crops = [crop_of(0, 2, 0), crop_of(0, 130, 0), crop_of(0, 195, 1), crop_of(1, 0, 0)]
    found = sighted(dict(zip("abcd", crops, strict=True)), BOXES)
    assert [each.person for each in found] == [0, None, 2, None]


def test_recall_purity_and_tracks():
    crops = [crop_of(0, 0, 7), crop_of(5, 0, 7), crop_of(0, 100, 7), crop_of(5, 200, 9), crop_of(5, 400, 9)]
    found = sighted(dict(zip("abcde", crops, strict=True)), BOXES)
    # four people are well in view in the two frames; three of them were found, and one crop shows nobody
    assert quality(found, BOXES, {0, 5}) == ["4", "75.0%", "5", "1", "75.0%", "1.00"]
    assert quality([], BOXES, {3}) == ["0", "0.0%", "0", "0", "0.0%", "0.00"]
