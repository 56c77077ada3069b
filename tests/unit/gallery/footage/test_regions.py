"""Where people must stand to count."""

from pathlib import Path

import numpy as np
import pytest

from gallery.footage.regions import parse_region, regions_of, stands_in
from utils.errors import UserError


def test_feet_decide():
    pytest.importorskip("cv2", reason="requirements-video.txt not installed")
    region = parse_region("0,50 100,50 100,100 0,100")
    boxes = np.array([[10, 0, 20, 60], [10, 0, 20, 40], [95, 40, 115, 90], [10, 40, 20, 101]], np.float32)
    assert stands_in(boxes, [region]).tolist() == [True, False, False, False]
    other = parse_region("90,80 200,80 200,200 90,200")
    assert stands_in(boxes, [region, other]).tolist() == [True, False, True, False]


def test_without_a_region_everybody_counts():
    assert stands_in(np.zeros((2, 4)), []).all()


def test_regions_are_for_sources():
    regions = [parse_region(f"{pattern}0,0 9,0 9,9") for pattern in ("cam1*=", "*/door/*=", "")]
    assert regions_of(Path("/data/cam1.mp4"), regions) == [regions[0], regions[2]]
    assert regions_of(Path("/data/door/a=b.jpg"), regions) == [regions[1], regions[2]]
    assert parse_region("a=b*=0,0 1,0 1,1.5").pattern == "a=b*"


@pytest.mark.parametrize("text", ["", "cam1*=", "0,0 1,1", "0,0 1,1 x,y", "0,0 1,1 2", "0;0 1;1 2;2"])
def test_what_is_no_region(text):
    with pytest.raises(UserError, match="expected three corners"):
        parse_region(text)
