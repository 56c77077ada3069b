"""Routes about where images come from, with drawn footage and a gallery that needs no model."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gallery.footage.decode import Video
from gallery.service.frames import BLUR_BLOCKS, blurred_outside
from tests.helpers.fake_gallery import FakeGallery, client_for
from tests.helpers.recordings import SIZE, crop

pytest.importorskip("av", reason="requirements-video.txt not installed")


TOKEN = {"authorization": "Bearer correct-horse-battery"}


@pytest.fixture
def gallery(filmed_gallery) -> FakeGallery:
    return filmed_gallery


def opened(response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def differs(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


# ---- values ----


def test_hits_say_where_they_come_from_and_what_they_stand_for(client, gallery):
    video = gallery.origins["id0"].source
    hits = client.post("/api/search", json={"query": "man"}).json()["hits"]
    assert [hit["image_id"] for hit in hits] == ["id0", "id3", "id4"]
    assert hits[0]["origin"] == {
        "source": video,
        "kind": "video",
        "frame": 10,
        "time_s": 2.0,
        "clock": "2026-11-20T08:00:02",
        "box": [40.0, 20.0, 80.5, 100.0],
        "frame_size": [192, 108],
        "score": 0.9,
        "track": 1,
    }
    assert hits[0]["group"] == {
        "count": 3,
        "start_s": 0.0,
        "end_s": 2.0,
        "start_clock": "2026-11-20T08:00:00",
        "end_clock": "2026-11-20T08:00:02",
        "near_copies": [],
    }
    assert (hits[1]["origin"]["kind"], hits[1]["origin"]["time_s"], hits[2]["origin"]) == ("picture", None, None)
    flat = client.post("/api/search", json={"query": "man", "group": False}).json()["hits"]
    assert ([hit["image_id"] for hit in flat], flat[0]["group"]) == ([f"id{n}" for n in range(5)], None)
    assert client.get("/api/origin?id=id0").json() == hits[0]["origin"]


@pytest.mark.parametrize("path", ["search", "search/similar", "search/image"])
def test_filters_reach_the_gallery_and_the_audit_log(gallery, tmp_path, path):
    log = tmp_path / "audit.jsonl"
    client = client_for(gallery, audit_log=log)
    narrowed = {"source": ["cam1", "x"], "after": "2026-11-20T08:00", "before": "2026-11-21", "min_height": 80}
    if path == "search/image":
        picture = io.BytesIO()
        Image.new("RGB", (9, 9)).save(picture, "PNG")
        options = {"files": {"image": picture.getvalue()}, "data": {**narrowed, "group": "false"}}
    else:
        own = {"query": "man"} if path == "search" else {"image_id": "id1"}
        options = {"json": {**own, **narrowed, "group": False}}
    response = client.post(f"/api/{path}", **options)
    assert response.status_code == 200, response.text
    wanted = {
        "source": ["cam1", "x"],
        "after": "2026-11-20T08:00:00",
        "before": "2026-11-21T00:00:00",
        "min_height": 80,
    }
    assert gallery.asked[0][-2:] == (wanted, "flat")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line == {**line, **wanted}
    assert line["shown"] == ["id0", "id1", "id2"]


@pytest.mark.parametrize(
    ("narrowed", "told"),
    [
        ({"after": "soon"}, "after: 'soon' is no time; write a date or a date and a time, such as 2026-11-20 or"),
        ({"after": "2026-11-20", "before": "2026-11-19"}, "nothing is after"),
        ({"source": ["cam9"]}, "no source matches"),
        ({"source": "cam1"}, "source: Input should be a valid list"),
        ({"source": ["x"] * 21}, "source: List should have at most 20 items"),
        ({"min_height": -1}, "min_height: Input should be greater than or equal to 0"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_one_sentence(client, narrowed, told):
    response = client.post("/api/search", json={"query": "man", **narrowed})
    assert response.status_code == 422
    assert response.json()["detail"].startswith(told)


def test_sources_and_tracks_are_listed(client, gallery, recordings):
    picture, video = (
        {**of, "source": Path(of["source"]).name} for of in reversed(client.get("/api/sources").json()["sources"])
    )
    assert video == {
        "source": "a.mp4",
        "kind": "video",
        "crops": 3,
        "first_clock": "2026-11-20T08:00:00",
        "last_clock": "2026-11-20T08:00:02",
    }
    assert (picture["kind"], picture["first_clock"]) == ("picture", None)
    short = client.get("/api/sources?limit=1").json()
    assert ([Path(of["source"]).name for of in short["sources"]], short["total"]) == (["a.mp4"], 2)
    track = client.get("/api/track?id=id2").json()
    assert ([crop["image_id"] for crop in track["crops"]], track["position"], track["total"]) == (
        ["id1", "id2", "id0"],
        1,
        3,
    )
    assert track["crops"][1] == {
        "image_id": "id2",
        "frame": 5,
        "time_s": 1.0,
        "clock": "2026-11-20T08:00:01",
        "box": [40.0, 20.0, 80.5, 100.0],
    }
    assert [crop["image_id"] for crop in client.get("/api/track?id=id3").json()["crops"]] == ["id3"]
    assert client.get("/api/track?id=id2&limit=1").json()["position"] == 0
    assert client.get("/api/track?id=id2&limit=1001").status_code == 422
    assert client.get("/api/gallery").json()["origins"] is True
    assert client_for(FakeGallery([])).get("/api/gallery").json()["origins"] is False


def test_who_needs_a_token_is_told_the_shared_part_of_paths_only(gallery, recordings):
    client = client_for(gallery, token="correct-horse-battery")
    assert client.get("/api/frame?id=id0").status_code == client.get("/api/video?id=id0").status_code == 401
    client.headers.update(TOKEN)
    assert [of["source"] for of in client.get("/api/sources").json()["sources"]] == ["cam1/a.mp4", "cam2/day.png"]
    assert client.get("/api/origin?id=id0").json()["source"] == "cam1/a.mp4"
    hits = client.post("/api/search", json={"query": "man"})
    assert hits.json()["hits"][0]["origin"]["source"] == "cam1/a.mp4"
    assert str(recordings) not in hits.text
    del gallery.origins["id3"]
    assert client.get("/api/origin?id=id0").json()["source"] == "a.mp4"
    gone = Path(gallery.origins["id0"].source).with_name("gone.mp4")
    gallery.origins["id0"] = gallery.origins["id0"]._replace(source=str(gone))
    assert "gone.mp4" not in client.get("/api/frame?id=id0").text


# ---- frames ----


def test_the_frame_is_the_one_that_was_cropped(client, gallery):
    with Video(Path(gallery.origins["id0"].source)) as video:
        frames = {frame.number: frame.pixels for frame in video.frames(0.2)}
    for image_id, number in (("id0", 10), ("id1", 0), ("id2", 5)):
        response = client.get(f"/api/frame?id={image_id}")
        shown = opened(response)
        assert (shown.size, shown.format) == (SIZE, "JPEG")
        distance = {other: differs(shown, pixels) for other, pixels in frames.items()}
        assert min(distance, key=distance.__getitem__) == number
        assert distance[number] < 3
    assert response.headers["cache-control"] == "private, max-age=3600"
    again = client.get("/api/frame?id=id2", headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert opened(client.get("/api/frame?id=id3")).size == (60, 50)


def test_a_large_frame_is_made_smaller(client, gallery, tmp_path):
    Image.new("RGB", (4000, 1000)).save(tmp_path / "large.png")
    gallery.origins["id3"] = crop(tmp_path / "large.png", 0, time_s=None, frame_size=(4000, 1000))
    assert opened(client.get("/api/frame?id=id3")).size == (1600, 400)
    assert opened(client.get("/api/frame?id=id3&size=thumbnail")).size == (320, 80)


def test_others_are_blurred_and_the_video_is_not_given_out(gallery, client):
    blurring = client_for(gallery, blur_others=True)
    assert (blurring.get("/api/gallery").json()["blur_others"], client.get("/api/gallery").json()["blur_others"]) == (
        True,
        False,
    )
    for size in ("full", "thumbnail"):
        whole, blurred = (opened(each.get(f"/api/frame?id=id3&size={size}")) for each in (client, blurring))
        box = (9, 9, 30, 40)
        assert differs(whole.crop(box), blurred.crop(box)) < 12  # noise, as JPEG
        outside = (32, 0, 60, 50)
        assert np.asarray(blurred.crop(outside), float).std() < 0.7 * np.asarray(whole.crop(outside), float).std()
    response = blurring.get("/api/video?id=id0")
    assert response.status_code == 403
    assert (
        response.json()["detail"]
        == "this service blurs other people (--blur-others), and the video itself would show them"
    )
    tags = {each.get("/api/frame?id=id0").headers["etag"] for each in (client, blurring)}
    assert len(tags) == 2  # a browser that has the one does not show it for the other


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ((10.5, 20.0, 20.0, 30.2), (10, 20, 20, 31)),
        ((-5.0, -5.0, 3.0, 4.0), (0, 0, 3, 4)),
        ((190, 190, 195, 195), None),
    ],
)
def test_nothing_outside_of_the_box_can_be_got_back(box, kept):
    """Two frames that differ in every pixel, but not in the means of their blocks, give the same outside."""
    side = 4 * BLUR_BLOCKS
    checks = np.indices((side, side)).sum(axis=0) % 2 * 255
    one, other = (np.repeat(values[..., None], 3, axis=2).astype(np.uint8) for values in (checks, 255 - checks))
    first, second = (np.asarray(blurred_outside(Image.fromarray(pixels), box), int) for pixels in (one, other))
    inside = np.zeros((side, side), bool)
    if kept is not None:
        left, top, right, bottom = kept
        inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(first[inside], one[inside])
    np.testing.assert_array_equal(second[inside], other[inside])
    assert np.abs(first - second)[~inside].max() <= 1  # the mean is rounded


# ---- videos ----


def test_the_video_is_given_in_parts(client, gallery):
    whole = Path(gallery.origins["id0"].source).read_bytes()
    response = client.get("/api/video?id=id0")
    assert (response.status_code, response.headers["content-type"], response.content == whole) == (
        200,
        "video/mp4",
        True,
    )
    assert response.headers["accept-ranges"] == "bytes"
    part = client.get("/api/video?id=id0", headers={"range": "bytes=100-299"})
    assert (part.status_code, part.content) == (206, whole[100:300])
    assert part.headers["content-range"] == f"bytes 100-299/{len(whole)}"
    assert client.get("/api/video?id=id0", headers={"range": "bytes=-7"}).content == whole[-7:]
    assert client.get("/api/video?id=id0", headers={"range": "bytes=99999999-"}).status_code == 416
    assert "media-src 'self'" in response.headers["content-security-policy"]


def test_who_looked_at_a_frame_or_a_video_is_logged(gallery, tmp_path):
    log = tmp_path / "audit.jsonl"
    client = client_for(gallery, audit_log=log)
    client.get("/api/frame?id=id0")
    client.get("/api/video?id=id1", headers={"range": "bytes=0-9"})
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["action"], line["image_id"]) for line in lines] == [("frame", "id0"), ("video", "id1")]
    assert lines[1]["range"] == "bytes=0-9"
