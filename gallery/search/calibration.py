"""From the score of the best hit to the probability that the person is in the gallery.

`search.py calibrate` writes best.calibration.json beside best.pth; indexing copies it into the manifest.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OrderCalibration:
    """Calibration of one order of the hits: fast (by similarity) or exact (by the matching head)."""

    slope: float
    intercept: float  # probability = sigmoid(slope * best score + intercept)
    threshold: float  # below this probability nothing matches
    auc: float  # on held-out people; 0.5 = the score says nothing, 1 = it separates the two cases
    balanced_accuracy: float  # of the threshold, on held-out people, in [0, 1]; 0.5 = chance

    def probability(self, score: float) -> float:
        return 1 / (1 + math.exp(-min(max(self.slope * score + self.intercept, -60), 60)))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of one checkpoint, for galleries of about num_images: the best score rises with their size."""

    checkpoint_sha256: str
    split: str
    num_captions: int
    num_images: int
    fast: OrderCalibration
    exact: OrderCalibration | None  # None: the model has no second stage
    learned_words: list[str] = field(default_factory=list)  # of the training captions (gallery.search.words)


def calibration_from(values: dict[str, Any]) -> Calibration:
    """The inverse of `dataclasses.asdict`."""
    orders = {name: OrderCalibration(**values[name]) if values[name] else None for name in ("fast", "exact")}
    return Calibration(**{**values, **orders})


def calibration_path(checkpoint: Path) -> Path:
    """The calibration file of a checkpoint; best.pth and last.pth of one run have a file each."""
    return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")


def calibration_beside(checkpoint: Path, sha256: str) -> dict[str, Any] | None:
    """Content of the calibration file beside a checkpoint; None if there is none, or if it belongs to other weights.

    Raises: UserError if the file is damaged.
    """
    path = calibration_path(checkpoint)
    if not path.is_file():
        return None
    try:
        calibration = calibration_from(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it, or run search.py calibrate again") from None
    return asdict(calibration) if calibration.checkpoint_sha256 == sha256 else None
