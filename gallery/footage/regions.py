"""The part of a camera's view that counts: a polygon, for the sources whose name fits a pattern."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.extras import optional


class Region(NamedTuple):
    pattern: str  # of the file's name or of its whole path
    corners: tuple[tuple[float, float], ...]  # x, y in pixels of the full frame


def parse_region(text: str) -> Region:
    """Read "PATTERN=x,y x,y x,y" or, for all sources, "x,y x,y x,y". Raises: UserError."""
    pattern, _, polygon = text.rpartition("=")
    try:
        corners = tuple((float(x), float(y)) for x, y in (corner.split(",") for corner in polygon.split()))
    except ValueError:
        corners = ()
    if len(corners) < 3:
        raise UserError(f"region {text!r}: expected three corners or more, such as 'cam1*=0,120 640,120 640,360 0,360'")
    return Region(pattern or "*", corners)


def regions_of(source: Path, regions: Sequence[Region]) -> list[Region]:
    """Those that are meant for a source."""
    return [each for each in regions if fnmatch(source.name, each.pattern) or fnmatch(str(source), each.pattern)]


def stands_in(boxes: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """For boxes (n, 4), whether the middle of the lower edge lies in one of the regions; all True if there are none."""
    if not regions:
        return np.ones(len(boxes), dtype=bool)
    cv2 = optional("cv2", "a region")
    polygons = [np.array(region.corners, np.float32) for region in regions]
    feet = [(float(x0 + x1) / 2, float(y1)) for x0, _, x1, y1 in boxes]
    return np.array([any(cv2.pointPolygonTest(each, foot, False) >= 0 for each in polygons) for foot in feet], bool)
