"""Where a crop comes from. Imports no torch and no library of the extra `video`."""

from datetime import datetime
from typing import NamedTuple


class Origin(NamedTuple):
    """The place and the time of a crop in the picture or the video that it was cut from."""

    source: str  # the picture or the video: absolute, with slashes
    frame: int  # its number in the video, from 0; 0 = a picture
    time_s: float | None  # seconds from the start of the video; None = a picture
    clock: datetime | None  # the camera's local time, without a time zone, where the file or its name tells it
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels of the full frame
    frame_size: tuple[int, int]  # width, height in pixels
    score: float | None  # the detector's, in [0, 1]
    track: int | None  # one person's consecutive crops share it; unique within the source; None = not tracked
