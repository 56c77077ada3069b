"""When a picture or a video was taken."""

from datetime import datetime, timezone

import pytest
from PIL import Image

from gallery.footage.clock import CHANGED, EXIF_IFD, TAKEN, TAKEN_MS, clock_of_name, clock_of_picture, clock_of_video


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("cam1_2026-11-20_08-00-00.mp4", datetime(2026, 11, 20, 8)),
        ("20261120T080001.mkv", datetime(2026, 11, 20, 8, 0, 1)),
        ("IMG_20261120_235959.jpg", datetime(2026, 11, 20, 23, 59, 59)),
        ("20261120080000.avi", datetime(2026, 11, 20, 8)),
        ("2026.11.20 08.00.00.250.mp4", datetime(2026, 11, 20, 8, 0, 0, 250_000)),
        ("cam 2026-11-20 08:00:00.mp4", datetime(2026, 11, 20, 8)),
        ("99991399_2026-11-20T08h05m09.mp4", datetime(2026, 11, 20, 8, 5, 9)),
    ],
)
def test_time_in_a_name(name, time):
    assert clock_of_name(name) == time


@pytest.mark.parametrize(
    "name", ["cam1.mp4", "2026-11-20.mp4", "20261120.mp4", "2026-13-20_08-00-00.mp4", "123456789012345.mp4", "v1-2-3"]
)
def test_no_time_in_a_name(name):
    assert clock_of_name(name) is None


def test_time_in_a_container_is_turned_from_utc_to_local_time():
    utc = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)
    expected = utc.astimezone().replace(tzinfo=None)
    assert clock_of_video({"creation_time": "2026-11-20T08:00:00.000000Z"}) == expected
    assert clock_of_video({"creation_time": "2026-11-20T08:00:00"}) == datetime(2026, 11, 20, 8)
    local = {"com.apple.quicktime.creationdate": "2026-11-20T08:00:00+0900", "creation_time": "2026-11-19T23:00:00Z"}
    assert clock_of_video(local) in {datetime(2026, 11, 20, 8), clock_of_video({**local, "other": ""})}


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00Z", "1904-01-01T00:00:00Z", "yesterday", ""])
def test_a_clock_that_was_never_set(text):
    assert clock_of_video({"creation_time": text}) is None


def test_time_in_exif_data():
    image, exif = Image.new("RGB", (2, 2)), Image.Exif()
    image.getexif = lambda: exif
    assert clock_of_picture(image) is None
    exif[CHANGED] = "2026:11:21 09:00:00"
    assert clock_of_picture(image) == datetime(2026, 11, 21, 9)
    exif.get_ifd(EXIF_IFD).update({TAKEN: "2026:11:20 08:00:00", TAKEN_MS: "25"})
    assert clock_of_picture(image) == datetime(2026, 11, 20, 8, 0, 0, 250_000)
    exif.get_ifd(EXIF_IFD)[TAKEN] = "0000:00:00 00:00:00"
    assert clock_of_picture(image) is None
