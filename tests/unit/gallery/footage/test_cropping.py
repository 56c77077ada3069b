"""Runs that crop: what they write, and how they go on."""

import io
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
from PIL import Image

from dataset.synthpedes.footage import draw_frame, write_footage
from gallery.footage import cropping
from gallery.footage.cropping import crop, cut, with_tracks
from gallery.footage.detectors import People
from gallery.footage.ledger import FILE as LEDGER
from gallery.footage.ledger import STATE_DIGITS, Ledger, image_path
from gallery.footage.regions import parse_region
from gallery.footage.request import CropRequest
from gallery.footage.sources import find_sources
from gallery.footage.table import read_table
from tests.helpers.footage import FPS, small_footage, truth_detector
from utils.errors import UserError

for package in ("av", "cv2", "pyarrow", "trackers"):
    pytest.importorskip(package, reason="requirements-video.txt not installed")

FOOTAGE = [small_footage(seed) for seed in range(2)]
BEGIN = datetime(2026, 11, 20, 8, tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
TRUTH = truth_detector(*FOOTAGE)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, footage in enumerate(FOOTAGE):
        write_footage(folder / f"cam{number}.mp4", footage, datetime(2026, 11, 20, 8))
    return folder


@pytest.fixture
def request_of(tmp_path):
    def made(*sources, **changes):
        settings = {"min_height": 20, "padding": 0.0, **changes}
        return CropRequest(sources=[str(source) for source in sources], out=tmp_path / "crops", **settings)

    return made


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}


def test_crops_of_a_video_are_the_people_that_were_drawn(videos, request_of):
    request = request_of(videos / "cam0.mp4")
    report = crop(request, TRUTH)
    origins = read_table(request.out)
    assert files(request.out) == set(origins)
    assert (report.crops, report.new_crops, report.videos, report.bad) == (len(origins), len(origins), 1, [])
    expected = {
        (number, tuple(map(float, box.box)))
        for number in (0, 3, 5, 8, 10, 13, 15, 18)
        for box in draw_frame(FOOTAGE[0], number)[1]
        if box.box[3] - box.box[1] >= 20
    }
    assert {(origin.frame, origin.box) for origin in origins.values()} == expected
    for image, origin in origins.items():
        assert origin.source == (videos / "cam0.mp4").as_posix()
        assert origin.time_s == pytest.approx(origin.frame / FPS)
        assert (origin.clock - BEGIN).total_seconds() == pytest.approx(origin.time_s)
        assert origin.frame_size == (192, 108)
        assert origin.score == pytest.approx(0.9)
        assert origin.track is not None
        x0, y0, x1, y1 = map(int, origin.box)
        pixels = np.asarray(Image.open(request.out / image)).astype(int)
        drawn = draw_frame(FOOTAGE[0], origin.frame)[0][y0:y1, x0:x1]
        assert pixels.shape == drawn.shape
        assert np.abs(pixels - drawn).mean() < 15  # compressed twice


def test_frames_far_apart_make_no_tracks(videos, request_of):
    request = request_of(videos, every_s=2.5)
    assert crop(request, TRUTH).crops > 0
    assert {origin.track for origin in read_table(request.out).values()} == {None}


def test_a_second_run_does_only_what_is_new(videos, request_of, tmp_path):
    growing = tmp_path / "growing"
    growing.mkdir()
    (growing / "cam0.mp4").write_bytes((videos / "cam0.mp4").read_bytes())
    request = request_of(growing)
    first = crop(request, TRUTH)
    before = {image: (request.out / image).stat().st_mtime_ns for image in files(request.out)}
    (growing / "cam1.mp4").write_bytes((videos / "cam1.mp4").read_bytes())
    second = crop(request, TRUTH)
    assert (second.videos, second.unchanged) == (1, 1)
    assert second.crops == first.crops + second.new_crops == len(read_table(request.out))
    assert all((request.out / image).stat().st_mtime_ns == time for image, time in before.items())
    third = crop(request, lambda frame: pytest.fail("nothing is new"))
    assert (third.crops, third.new_crops, third.unchanged) == (second.crops, 0, 2)


def test_a_source_that_has_changed_is_cropped_anew(videos, request_of, tmp_path):
    path = tmp_path / "cam.mp4"
    path.write_bytes((videos / "cam0.mp4").read_bytes())
    request = request_of(path)
    crop(request, TRUTH)
    before = files(request.out)
    path.write_bytes((videos / "cam1.mp4").read_bytes())
    again = crop(request, TRUTH)
    assert not before & files(request.out)  # an index may have been told to leave those out
    assert len([each for each in request.out.iterdir() if each.is_dir()]) == 1
    alone = crop(replace(request, out=tmp_path / "alone"), TRUTH)
    assert (again.videos, again.crops) == (1, alone.crops)
    assert files(request.out) == files(tmp_path / "alone") == set(read_table(request.out))


def test_other_settings_crop_anew_and_a_source_that_is_gone_stays(videos, request_of, tmp_path):
    path = tmp_path / "cam.mp4"
    path.write_bytes((videos / "cam0.mp4").read_bytes())
    crop(request_of(path, videos / "cam1.mp4"), TRUTH)
    both = read_table(tmp_path / "crops")
    path.unlink()
    report = crop(request_of(videos / "cam1.mp4", min_height=10_000), TRUTH)
    left = read_table(tmp_path / "crops")
    assert report.videos == 1
    assert left == {image: origin for image, origin in both.items() if origin.source == path.as_posix()}
    assert files(tmp_path / "crops") == set(left)


def test_nothing_is_left_of_a_run_that_was_killed_and_had_other_settings(videos, request_of, tmp_path):
    """It may have written crops that it did not note any more."""
    Image.fromarray(draw_frame(FOOTAGE[0], 5)[0]).save(tmp_path / "a.png")
    request = request_of(videos, tmp_path / "a.png")
    crop(request, TRUTH)
    for image in files(request.out):
        (request.out / image).with_name(image.rpartition("/")[2].replace("-0.jpg", "-7.jpg")).write_bytes(b"left")
    crop(replace(request, padding=0.1), TRUTH)
    assert files(request.out) == set(read_table(request.out))


def test_crops_under_the_names_of_an_earlier_version_are_kept_and_replaced(videos, request_of, tmp_path, monkeypatch):
    path = tmp_path / "cam.mp4"
    path.write_bytes((videos / "cam0.mp4").read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr("gallery.footage.cropping.image_path", earlier_path)
        crop(request_of(path), TRUTH)
    before = files(tmp_path / "crops")
    assert crop(request_of(path), TRUTH).unchanged == 1
    assert files(tmp_path / "crops") == before == set(read_table(tmp_path / "crops"))
    crop(request_of(path, padding=0.1), TRUTH)
    assert files(tmp_path / "crops") == set(read_table(tmp_path / "crops"))
    assert not before & files(tmp_path / "crops")


def earlier_path(source, frame, number):
    folder, _, file = image_path(source, frame, number).partition("/")
    return f"{folder[: -STATE_DIGITS - 1]}/{file}"


@pytest.mark.parametrize("after", [1, 5])
def test_a_run_that_stops_goes_on_and_ends_with_the_same(videos, request_of, tmp_path, monkeypatch, after):
    calls = 0

    def stops(frame):
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt
        return TRUTH(frame)

    monkeypatch.setattr("gallery.footage.ledger.COMMIT_EVERY_S", 0.0)
    request = request_of(videos)
    with pytest.raises(KeyboardInterrupt):
        crop(request, stops)
    assert files(request.out) == set(read_table(request.out))
    looked_at = 0

    def counts(frame):
        nonlocal looked_at
        looked_at += 1
        return TRUTH(frame)

    crop(request, counts)
    assert looked_at == 16 - after
    whole = crop(replace(request, out=tmp_path / "whole"), TRUTH)
    assert read_table(request.out) == read_table(tmp_path / "whole")
    assert files(request.out) == files(tmp_path / "whole")
    assert whole.crops > 0


def test_bad_files_are_told_and_do_not_stop_the_others(videos, request_of, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"no video" * 99)
    (folder / "b.mp4").write_bytes((videos / "cam0.mp4").read_bytes())
    (folder / "c.jpg").write_bytes(b"no picture")
    Image.fromarray(draw_frame(FOOTAGE[0], 5)[0]).save(folder / "d.png")
    (folder / "e.mp4").symlink_to(folder / "nowhere.mp4")
    report = crop(request_of(folder), TRUTH)
    assert [bad.path.name for bad in report.bad] == ["nowhere.mp4", "c.jpg", "a.mp4"]
    assert (report.videos, report.pictures) == (1, 1)
    assert crop(request_of(folder), TRUTH).bad == report.bad  # told again


def test_crops_of_pictures(request_of, tmp_path):
    for name in ("a b.png", "a_b.png"):  # odd characters are replaced in file names of crops
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(draw_frame(FOOTAGE[0], 5)[0]).save(tmp_path / "in" / name)
    request = request_of(tmp_path / "in")
    crop(request, TRUTH)
    origins = read_table(request.out)
    shown = [box for box in draw_frame(FOOTAGE[0], 5)[1] if box.box[3] - box.box[1] >= 20]
    assert len(origins) == 2 * len(shown) > 0
    assert files(request.out) == set(origins)
    assert {(o.frame, o.time_s, o.clock, o.track) for o in origins.values()} == {(0, None, None, None)}


def test_height_score_and_region_choose(videos, request_of, tmp_path):
    def two(frame):
        return People(np.array([[10, 10, 30, 70], [100, 10, 120, 40]], np.float32), np.array([0.9, 0.4], np.float32))

    def boxes(name, **changes):
        request = replace(request_of(videos / "cam0.mp4", **changes), out=tmp_path / name)
        crop(request, two)
        return {origin.box[0] for origin in read_table(request.out).values()}

    assert boxes("all") == {10, 100}
    assert boxes("tall", min_height=40) == {10}
    assert boxes("sure", score=0.5) == {10}
    assert boxes("right", regions=[parse_region("cam*=90,0 192,0 192,108 90,108")]) == {100}
    assert boxes("others", regions=[parse_region("door*=90,0 192,0 192,108 90,108")]) == {10, 100}


def test_padding_is_cut_off_at_the_frame():
    frame = np.zeros((100, 80, 3), np.uint8)
    sizes = [Image.open(io.BytesIO(cut(frame, (10, 20, 30, 60), padding))).size for padding in (0, 0.1, 2)]
    assert sizes == [(20, 40), (24, 48), (70, 100)]


def test_a_folder_of_other_things_is_not_taken(request_of, videos, tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="holds something else"):
        crop(request_of(videos), TRUTH)


def test_two_runs_at_once(request_of, videos, tmp_path):
    with Ledger(tmp_path / "crops"), pytest.raises(UserError, match="another process crops into"):
        crop(request_of(videos), TRUTH)


def test_a_damaged_ledger(request_of, videos, tmp_path):
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / LEDGER).write_bytes(b"no database" * 999)
    with pytest.raises(UserError, match=r"is damaged .* delete it to crop everything anew"):
        crop(request_of(videos), TRUTH)


@pytest.mark.parametrize("changes", [{"every_s": 0.0}, {"score": 1.5}, {"min_height": 0}, {"padding": -0.1}])
def test_impossible_options(request_of, changes):
    with pytest.raises(UserError, match="--every must be above 0"):
        request_of("a.mp4", **changes)


def test_crops_that_were_deleted_do_not_come_back(request_of, videos):
    request = request_of(videos)
    crop(request, TRUTH)
    gone, *kept = sorted(files(request.out))
    assert gone.encode() in (request.out / LEDGER).read_bytes()
    with Ledger(request.out) as ledger:
        ledger.delete([gone])
        ledger.write_table()
    assert files(request.out) == set(read_table(request.out)) == set(kept)
    assert gone.encode() not in (request.out / LEDGER).read_bytes()
    assert crop(request, TRUTH).new_crops == 0
    assert files(request.out) == set(kept)


def test_progress_counts_seconds_of_video(videos, request_of, monkeypatch):
    advanced = []

    class Bar(cropping.progress):
        def advance(self, units=1):
            advanced.append((self._unit, units))

    monkeypatch.setattr(cropping, "progress", Bar)
    crop(request_of(videos), TRUTH)
    assert sum(units for unit, units in advanced if unit == "s of video") == 8


def test_tracks_are_read_and_written_frame_by_frame(videos, request_of, monkeypatch):
    request = request_of(videos / "cam0.mp4")
    crop(request, TRUTH)
    read, own = [], Ledger.seen
    monkeypatch.setattr(Ledger, "seen", lambda *given: (read.append(each) or each for each in own(*given)))
    with Ledger(request.out) as ledger:
        (source,) = find_sources(request.sources, outside=request.out).sources
        entry = ledger.entry(source, request.settings(source))
        pairs = with_tracks(ledger, entry, 0.5)
        found = dict([next(pairs)])
        assert len(read) == 1
        found |= dict(pairs)
    assert found == {image: origin.track for image, origin in read_table(request.out).items()}
