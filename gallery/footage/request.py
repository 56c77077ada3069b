"""What is to be cropped, and how."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gallery.footage.detectors import DEFAULT
from gallery.footage.regions import Region, regions_of
from gallery.footage.sources import Source
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class CropRequest:
    """Sources, a folder for their crops, and what decides which crops these are.

    sources: files, folders and globs.
    out: folder of the crops.
    every_s: seconds of video between the frames that are looked at.
    detector: its name (detectors/named.py); weights: a file for it.
    score: the detector's, in [0, 1]; people with less are left out.
    min_height: of a box in pixels.
    padding: around a box, as a share of its size on each side.
    regions: where people must stand to count.
    """

    sources: Sequence[str]
    out: Path
    every_s: float = 0.5
    detector: str = DEFAULT
    weights: Path | None = None
    score: float = 0.3
    min_height: int = 64
    padding: float = 0.05
    regions: Sequence[Region] = ()

    def __post_init__(self) -> None:
        if self.every_s <= 0 or not 0 <= self.score <= 1 or self.min_height < 1 or self.padding < 0:
            raise UserError("--every must be above 0, --score in [0, 1], --min-height at least 1, --padding at least 0")

    def settings(self, source: Source) -> str:
        """Everything that decides what the crops of a source are. Others make it be cropped anew."""
        weights = Path(self.weights or self.detector.partition(":")[2])  # of torchvision:NAME there is no such file
        stamp = [weights.stat().st_size, weights.stat().st_mtime_ns] if weights.is_file() else None
        regions = [region.corners for region in regions_of(source.path, self.regions)]
        every_s = self.every_s if source.is_video else None
        chosen = [self.detector, stamp, every_s, self.score, self.min_height, self.padding, regions]
        return json.dumps(chosen)
