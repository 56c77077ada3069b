"""Recordings that are gone, changed, of no readable kind, or none of the gallery's; frames in every kind of video."""

import os
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from gallery.footage.decode import Video
from gallery.service.limits import Limits
from tests.helpers.fake_gallery import FakeGallery, client_for
from tests.helpers.recordings import crop

av = pytest.importorskip("av", reason="requirements-video.txt not installed")


@pytest.fixture
def gallery(filmed_gallery) -> FakeGallery:
    return filmed_gallery


def refusals(client: TestClient, image_id: str) -> list[tuple[int, str]]:
    responses = [client.get(f"/api/{name}?id={image_id}") for name in ("frame", "video")]
    return [(response.status_code, response.json()["detail"]) for response in responses]


def test_only_what_is_indexed_is_given_out(client):
    for name in ("origin", "track", "frame", "video"):
        for image_id in ("id9", "../../etc/passwd", "/etc/passwd"):
            response = client.get(f"/api/{name}", params={"id": image_id})
            assert (response.status_code, response.json()["detail"]) == (404, "no image of this gallery has that id")
        plain = client.get(f"/api/{name}?id=id4")
        assert (plain.status_code, plain.json()["detail"]) == (404, "it is not known where this image comes from")
    assert client.get("/api/video?id=id3").json()["detail"] == "this image comes from a picture, not from a video"


def test_a_recording_that_is_gone(client, gallery, tmp_path):
    gallery.origins["id0"] = crop(tmp_path / "gone.mp4", 0)
    (tmp_path / "folder.mp4").mkdir()
    gallery.origins["id1"] = crop(tmp_path / "folder.mp4", 0)
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would block
    gallery.origins["id2"] = crop(tmp_path / "pipe.mp4", 0)
    assert refusals(client, "id0") == [(410, "the recording is gone: it was deleted or moved")] * 2
    assert refusals(client, "id1") == refusals(client, "id2")
    assert refusals(client, "id1") == [(410, "the recording is gone: there is something else in its place")] * 2


def test_a_recording_that_shows_something_else(client, gallery, recordings):
    gallery.origins["id0"] = crop(recordings / "cam1" / "a.mp4", 0, frame_size=(1920, 1080))
    frame = client.get("/api/frame?id=id0")
    assert (frame.status_code, "another size" in frame.json()["detail"]) == (410, True)
    gallery.origins["id1"] = crop(recordings / "cam1" / "a.mp4", 500)
    late = client.get("/api/frame?id=id1")
    assert (late.status_code, late.json()["detail"]) == (
        503,
        "the recording cannot be read: no frame can be decoded at 100.0 s",
    )


def test_a_recording_that_cannot_be_read(client, gallery, recordings, tmp_path):
    (tmp_path / "no.mp4").write_text("no video")
    gallery.origins["id0"] = crop(tmp_path / "no.mp4", 0)
    for status, detail in refusals(client, "id0"):
        assert (status, detail.startswith("the recording cannot be read: ")) == (503, True)
        assert str(tmp_path) not in detail
    (tmp_path / "secret.txt").write_text("secret")
    gallery.origins["id1"] = crop(tmp_path / "secret.txt", 0)
    assert client.get("/api/video?id=id1").json()["detail"] == "the recording is not a kind of video that is given out"
    (tmp_path / "linked.mp4").symlink_to(tmp_path / "secret.txt")
    gallery.origins["id2"] = crop(tmp_path / "linked.mp4", 0)
    assert [status for status, _ in refusals(client, "id2")] == [503, 503]


def test_few_frames_may_wait_and_videos_wait_for_none(gallery, monkeypatch):
    client = client_for(gallery, limits=Limits(decoders=1, waiting_calls=1))
    working, finish, decoded = threading.Event(), threading.Event(), Image.new("RGB", (9, 9))

    def slow(origin):
        working.set()
        assert finish.wait(60)
        return decoded

    monkeypatch.setattr("gallery.service.frame_routes.read_frame", slow)
    with client, ThreadPoolExecutor(4) as pool:  # `with`: one event loop for all requests
        frames = [pool.submit(client.get, "/api/frame?id=id0")]
        try:
            assert working.wait(60)
            frames += [pool.submit(client.get, f"/api/frame?id=id{number}") for number in (1, 2)]
            (refused,), _ = wait(frames[1:], 60, FIRST_COMPLETED)
            assert (refused.result().status_code, refused.result().headers["retry-after"]) == (503, "5")
            assert refused.result().json()["detail"] == "too many frames are waiting: try again in a moment"
            assert pool.submit(client.get, "/api/video?id=id0").result(60).status_code == 200
        finally:
            finish.set()
        assert sorted(response.result(60).status_code for response in frames) == [200, 200, 503]
        assert client.get("/api/frame?id=id0").status_code == 200


def test_without_pyav_it_says_what_to_install(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    response = client.get("/api/frame?id=id0")
    assert response.status_code == 503
    assert response.json()["detail"].endswith("pip install -r requirements-video.txt")


@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        ("mkv", "libx264", 10),
        ("avi", "libx264", 10),
        ("mov", "libx264", 10),
        ("ts", "libx264", 10),
        ("ts", "mpeg2video", 25),
        ("mpg", "mpeg2video", 25),
    ],
)
def test_a_frame_is_found_in_every_kind_of_video(tmp_path, kind, codec, rate):
    """Those of a video with key frames 20 frames apart, as decoded from the beginning."""
    film(tmp_path / f"a.{kind}", 90, codec, rate)
    with Video(tmp_path / f"a.{kind}") as video:
        frames = list(video.frames(7 / rate))
    assert len(frames) >= 12
    for frame in frames:
        with Video(tmp_path / f"a.{kind}") as video:
            np.testing.assert_array_equal(video.pixels_at(frame.time_s), frame.pixels)


def test_a_late_frame_is_found_without_decoding_all_before_it(tmp_path, monkeypatch):
    film(tmp_path / "a.ts", 400, "libx264", 10)
    with Video(tmp_path / "a.ts") as video:
        last = list(video.frames(1.0))[-1]
    monkeypatch.setattr(Video, "_from_beginning", lambda *_: pytest.fail("decoded from the beginning"))
    with Video(tmp_path / "a.ts") as video:
        np.testing.assert_array_equal(video.pixels_at(last.time_s), last.pixels)


def film(path, frames, codec, rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), 2 * number % 251, np.uint8)
            pixels[:, : number % 60 + 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
