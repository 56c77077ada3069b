"""Frames of videos and pictures, whole and broken."""

from datetime import datetime, timezone

import numpy as np
import pytest
from PIL import Image

from dataset.synthpedes.footage import draw_frame, write_footage
from gallery.footage.decode import Unreadable, Video, read_picture
from tests.helpers.footage import FPS, small_footage

av = pytest.importorskip("av", reason="requirements-video.txt not installed")


@pytest.fixture(scope="module")
def footage():
    return small_footage()


@pytest.fixture(scope="module")
def video(footage, tmp_path_factory):
    path = tmp_path_factory.mktemp("footage") / "cam.mp4"
    write_footage(path, footage, datetime(2026, 11, 20, 8))
    return path


def frames_of(path, every_s=0.5, first=0):
    with Video(path) as video:
        return list(video.frames(every_s, first)), video.damage()


def test_frames_every_half_second_are_those_that_were_drawn(video, footage):
    frames, damage = frames_of(video)
    assert damage is None
    assert [frame.number for frame in frames] == [
        0,
        3,
        5,
        8,
        10,
        13,
        15,
        18,
    ]  # 5 frames a second: the first of each span
    assert [frame.time_s for frame in frames] == pytest.approx([frame.number / FPS for frame in frames])
    for frame in frames[::3]:
        assert np.abs(frame.pixels.astype(int) - draw_frame(footage, frame.number)[0]).mean() < 6


def test_going_on_later_gives_the_same_frames(video):
    frames, rest = frames_of(video)[0], frames_of(video, first=9)[0]
    assert [frame.number for frame in rest] == [frame.number for frame in frames if frame.number >= 9]
    assert np.array_equal(rest[0].pixels, frames[-len(rest)].pixels)


def test_all_frames_are_taken_if_there_are_fewer(video, footage):
    assert len(frames_of(video, every_s=0.01)[0]) == footage.frames


def test_length_and_clock(video, tmp_path):
    with Video(video) as opened:
        assert opened.duration_s == pytest.approx(4)
        assert opened.clock == datetime(2026, 11, 20, 8, tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
    named = tmp_path / "cam1_2025-01-02_03-04-05.mp4"
    named.write_bytes(video.read_bytes())
    with Video(named) as opened:
        assert opened.clock == datetime(2025, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("ending", ["mkv", "avi", "mov"])
def test_other_containers(footage, tmp_path, ending):
    write_footage(tmp_path / f"cam.{ending}", footage._replace(frames=10))
    frames, damage = frames_of(tmp_path / f"cam.{ending}")
    assert damage is None
    assert len(frames) == 4


def test_a_video_that_was_turned(footage, tmp_path):
    """A phone writes how its picture is to be turned."""
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 192, 108, "yuv420p"
        turned = av.VideoFrame.from_ndarray(draw_frame(footage, 0)[0], format="rgb24")
        container.mux(stream.encode(turned))
        container.mux(stream.encode())
    data = path.read_bytes()
    upright = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    clockwise = b"".join(n.to_bytes(4, "big") for n in (0, 1 << 16, 0, 0xFFFF0000, 0, 0, 0, 0, 1 << 30))
    track = data.index(b"tkhd")
    path.write_bytes(data[:track] + data[track:].replace(upright, clockwise, 1))
    (frame,), _ = frames_of(path)
    assert frame.pixels.shape == (192, 108, 3)
    assert np.abs(np.rot90(frame.pixels.astype(int)) - draw_frame(footage, 0)[0]).mean() < 6


def test_a_hole_in_a_video_costs_only_that(video, tmp_path):
    data = bytearray(video.read_bytes())
    start, end = len(data) // 3, len(data) // 2
    data[start:end] = bytes(end - start)
    (tmp_path / "hole.mp4").write_bytes(data)
    frames, damage = frames_of(tmp_path / "hole.mp4")
    assert len(frames) >= 6
    assert "broken frames or packets; the rest was cropped" in str(damage)


def test_a_video_that_ends_too_early(footage, tmp_path):
    write_footage(tmp_path / "cam.mkv", footage)
    data = (tmp_path / "cam.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 3])
    frames, damage = frames_of(tmp_path / "cut.mkv")
    assert 1 <= len(frames) < 8
    assert "of 4.0 s; the rest was cropped" in str(damage)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<!doctype html><title>Not found</title>", "it is a web page"),
        (b"no video" * 99, "damaged, or still being written"),
        (None, "damaged, or still being written"),  # cut off before the index at its end
    ],
)
def test_files_that_are_no_video(video, tmp_path, content, reason):
    path = tmp_path / "bad.mp4"
    path.write_bytes(video.read_bytes()[:2000] if content is None else content)
    with pytest.raises(Unreadable, match=reason):
        frames_of(path)


def test_a_video_without_pictures(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(Unreadable, match="it holds no video"):
        frames_of(path)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "tiff", "gif", "avif"])
def test_pictures_of_all_kinds(tmp_path, ending):
    path = tmp_path / f"2026-11-20_08-00-00.{ending}"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(path)
    frame, clock = read_picture(path)
    assert (frame.number, frame.time_s, frame.pixels.shape) == (0, None, (30, 40, 3))
    assert np.abs(frame.pixels.astype(int) - (200, 30, 30)).max() < 12
    assert clock == datetime(2026, 11, 20, 8)


def test_a_photograph_of_a_phone(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif not installed")
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 48), (30, 200, 30)))
    heif.save(tmp_path / "a.heic")
    assert read_picture(tmp_path / "a.heic")[0].pixels.shape == (48, 64, 3)


def test_without_its_decoder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(Unreadable, match="pip install pillow-heif"):
        read_picture(tmp_path / "a.heic")


def test_the_first_picture_of_an_animation(tmp_path):
    shades = [Image.new("RGB", (9, 9), (shade,) * 3) for shade in (250, 0)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:])
    assert read_picture(tmp_path / "a.gif")[0].pixels.min() > 240


def test_a_photograph_is_turned_upright_and_dated(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2026:11:20 08:00:00"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    frame, clock = read_picture(tmp_path / "a.jpg")
    assert frame.pixels.shape == (40, 30, 3)
    assert clock == datetime(2026, 11, 20, 8)


@pytest.mark.parametrize(("content", "reason"), [(b"", "it is empty"), (b"x" * 99, "not a picture of a kind")])
def test_files_that_are_no_picture(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read_picture(tmp_path / "a.jpg")


def test_a_picture_that_is_cut_off(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(Unreadable, match="truncated"):
        read_picture(tmp_path / "a.jpg")


def test_a_picture_whose_decoder_fails_in_its_own_way(tmp_path, monkeypatch):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.avif")
    data = bytearray((tmp_path / "a.avif").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 60] = b"\xff" * 60
    (tmp_path / "a.avif").write_bytes(data)
    with pytest.raises(Unreadable, match="decode"):  # a RuntimeError
        read_picture(tmp_path / "a.avif")

    def ends(*_, **__):
        raise EOFError

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", ends)
    with pytest.raises(Unreadable, match=r"EOFError \(damaged"):
        read_picture(tmp_path / "a.png")
