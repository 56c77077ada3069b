"""Drawn footage, a detector that knows the truth about it, and photographs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dataset.synthpedes.footage import Footage, compose, draw_frame
from gallery.footage.detectors import Detector, People

FPS = 5


def small_footage(seed: int = 0, *, seconds: float = 4.0, people: int = 3) -> Footage:
    return compose(size=(192, 108), fps=FPS, seconds=seconds, people=people, scene="wall", seed=seed)


def truth_detector(*footages: Footage) -> Detector:
    """Recognises a frame by its pixels, and gives the boxes that were drawn in it."""
    frames = [draw_frame(footage, number) for footage in footages for number in range(footage.frames)]
    pictures = np.stack([pixels[::4, ::4].astype(np.int16) for pixels, _ in frames])

    def detect(frame: np.ndarray) -> People:
        _, boxes = frames[np.abs(pictures - frame[::4, ::4]).mean(axis=(1, 2, 3)).argmin()]
        corners = np.array([box.box for box in boxes], np.float32).reshape(-1, 4)
        return People(corners, np.full(len(boxes), 0.9, np.float32))

    return detect


def photograph(name: str) -> Path:
    """A photograph that scikit-image ships. Skips the test where it is not installed."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-image not installed")
    return Path(spec.origin).parent / "data" / name
