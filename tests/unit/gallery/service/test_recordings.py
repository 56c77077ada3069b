"""Recordings that are gone, changed, of no readable kind, or none of the gallery's; frames in every kind of video."""

import os
import sys

import numpy as np
import pytest
from fastapi.testclient import TestClient

from gallery.footage.decode import Video
from tests.helpers.fake_gallery import FakeGallery
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


def test_without_pyav_it_says_what_to_install(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    response = client.get("/api/frame?id=id0")
    assert response.status_code == 503
    assert response.json()["detail"].endswith("pip install -r requirements-video.txt")


@pytest.mark.parametrize("kind", ["mkv", "avi", "mov"])
def test_a_frame_is_found_in_every_kind_of_video(tmp_path, kind):
    """Those of H.264 with key frames 20 frames apart, as decoded from the beginning."""
    path = tmp_path / f"a.{kind}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "20"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(90):
            pixels = np.full((48, 64, 3), 2 * number, np.uint8)
            pixels[:, : number % 60 + 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with Video(path) as video:
        frames = list(video.frames(0.7))
    assert len(frames) >= 12
    for frame in frames:
        with Video(path) as video:
            np.testing.assert_array_equal(video.pixels_at(frame.time_s), frame.pixels)
