"""What a detector finds in a frame."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import nms

LEAST_SCORE = 0.05  # no detector's lower scores are of use
SAME_PERSON = 0.6  # boxes with a larger intersection over union are of one person


class People(NamedTuple):
    """n people in a frame, the surest first."""

    boxes: np.ndarray  # (n, 4) float32: x0, y0, x1, y1 in pixels, within the frame
    scores: np.ndarray  # (n,) float32 in [0, 1]

    def where(self, chosen: np.ndarray) -> "People":
        return People(self.boxes[chosen], self.scores[chosen])


Detector = Callable[[np.ndarray], People]  # pixels (height, width, 3) uint8 RGB -> people


def people(boxes: np.ndarray, scores: np.ndarray, frame: np.ndarray, *, overlapping: bool = True) -> People:
    """Sort boxes (n, 4) by score (n,) and cut them off at the frame; leave out faint, empty and repeated ones.

    overlapping: whether the model gives several boxes for one person.
    """
    height, width = frame.shape[:2]
    boxes = np.clip(boxes.astype(np.float32).reshape(-1, 4), 0, [width, height, width, height]).astype(np.float32)
    scores = scores.astype(np.float32).reshape(-1)
    chosen = np.flatnonzero((scores >= LEAST_SCORE) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    if overlapping:
        kept = nms(torch.from_numpy(boxes[chosen]), torch.from_numpy(scores[chosen]), SAME_PERSON)
        chosen = chosen[kept.numpy()]
    return People(boxes[chosen], scores[chosen])
