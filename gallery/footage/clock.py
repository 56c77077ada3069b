"""When a picture or a video was taken: the camera's local time, from the name of the file or from its metadata."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime

from PIL import Image

FIRST_YEAR = 1990  # metadata with an earlier time hold no time: clocks that were never set begin in 1904 or 1970
STAMP = re.compile(  # 2026-11-20_08-00-00, 20261120T080000, 2026.11.20 08:00:00.250, 20261120080000, ...
    r"(?<!\d)(?=(\d{4})([-_.]?)(\d\d)\2(\d\d)[T_ .-]{0,3}(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)(?:[.,](\d{3}))?(?!\d))"
)
EXIF_IFD, TAKEN, TAKEN_MS, CHANGED = 0x8769, 0x9003, 0x9291, 0x0132  # DateTimeOriginal, SubSecTimeOriginal, DateTime


def clock_of_name(name: str) -> datetime | None:
    """The time in the name of a file; None if there is none, or only a date."""
    for match in STAMP.finditer(name):
        year, _, month, day, hour, minute, second, milliseconds = match.groups("0")
        with suppress(ValueError):  # digits that are no time
            time = datetime.strptime(f"{year} {month} {day} {hour} {minute} {second}", "%Y %m %d %H %M %S")
            return _known(time.replace(microsecond=int(milliseconds) * 1000))
    return None


def clock_of_video(metadata: Mapping[str, str]) -> datetime | None:
    """The time at which a recording began, from a container's metadata.

    creation_time is in UTC by the standard; it becomes the local time of this machine.
    """
    for key in ("com.apple.quicktime.creationdate", "creation_time"):
        with suppress(ValueError):
            time = datetime.fromisoformat(metadata.get(key, "").strip().replace("Z", "+00:00"))
            if key == "creation_time" and time.tzinfo is not None:
                time = time.astimezone()
            return _known(time.replace(tzinfo=None))
    return None


def clock_of_picture(image: Image.Image) -> datetime | None:
    """The time at which a photograph was taken, from its EXIF data."""
    exif = image.getexif()
    details = exif.get_ifd(EXIF_IFD)
    with suppress(ValueError, TypeError):
        time = datetime.strptime(str(details.get(TAKEN) or exif.get(CHANGED)).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        digits = str(details.get(TAKEN_MS, "")).strip("\0 ")[:3]
        return _known(time.replace(microsecond=int(digits.ljust(3, "0")) * 1000 if digits.isdigit() else 0))
    return None


def _known(time: datetime) -> datetime | None:
    return time if time.year >= FIRST_YEAR else None
