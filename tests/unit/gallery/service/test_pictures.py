"""Pictures that the search service receives and sends, with a gallery that needs no model."""

import io
import os

import pytest
from PIL import Image

from gallery.service.limits import Limits
from gallery.store.store import UnknownImage
from tests.helpers.fake_gallery import FakeGallery, client_for, picture, upload

# ---- pictures that come in ----


def test_an_uploaded_picture_is_turned_upright_and_searched(client, gallery):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    answer = upload(client, picture((60, 30), "JPEG", exif=exif), top=2).json()
    assert gallery.asked == [("query_image", "RGB", (30, 60), 2)]
    assert (answer["mode"], len(answer["hits"])) == ("image", 2)


def test_an_indexed_image_is_searched_with(client, gallery):
    answer = client.post("/api/search/similar", json={"image_id": "id2", "top": 4}).json()
    assert gallery.asked == [("query_similar", "id2", 4)]
    assert len(answer["hits"]) == 4


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:60], picture(kind="GIF")])
def test_what_is_no_picture_is_refused(client, gallery, data):
    response = upload(client, data)
    assert response.status_code == 422
    assert "no readable picture (JPEG, PNG, WEBP)" in response.json()["detail"]
    assert gallery.asked == []


def test_a_small_file_with_many_pixels_is_refused_before_it_is_decoded(gallery, monkeypatch):
    client = client_for(gallery, limits=Limits(pixels=1000))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    response = upload(client, picture((40, 26)))
    assert response.status_code == 422
    assert response.json()["detail"] == "the picture has 40 x 26 pixels; at most 1,000 are allowed"


def test_a_large_upload_is_refused(gallery):
    client = client_for(gallery, limits=Limits(upload_bytes=1000, other_body_bytes=500))
    assert upload(client, b"x" * 2000).status_code == 413
    assert client.post("/api/search", content=b" " * 501).status_code == 413


def test_a_large_upload_of_untold_length_is_cut_off(gallery):
    client = client_for(gallery, limits=Limits(upload_bytes=1000, other_body_bytes=500))
    sent = []

    def chunks():
        yield b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\n"
        for _ in range(100):
            sent.append(1)
            yield b"x" * 100

    content_type = {"content-type": "multipart/form-data; boundary=b"}
    response = client.post("/api/search/image", content=chunks(), headers=content_type)
    assert (response.status_code, response.json()["detail"]) == (413, "the request is larger than 1,500 bytes")
    assert gallery.asked == []


# ---- pictures that go out ----


def test_an_image_goes_out_as_pixels_only(client, gallery):
    response = client.get("/api/image", params={"id": "id0"})
    assert response.headers["content-type"] == "image/jpeg"
    assert b"taken at home" in gallery.paths["id0"].read_bytes()
    assert b"taken at home" not in response.content
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (40, 80)


def test_a_thumbnail_is_small_and_kept_by_the_browser(gallery):
    Image.new("RGB", (1000, 2000)).save(gallery.paths["id0"])
    gallery = FakeGallery(list(gallery.paths.values()))
    client = client_for(gallery)
    request = {"url": "/api/image", "params": {"id": "id0", "size": "thumbnail"}}
    first = client.get(**request)
    with Image.open(io.BytesIO(first.content)) as image:
        assert image.size == (160, 320)
    assert first.headers["cache-control"] == "private, max-age=3600"
    again = client.get(**request, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    full = {"id": "id0", "size": "full"}
    assert client.get("/api/image", params=full, headers={"if-none-match": first.headers["etag"]}).status_code == 200


def test_a_file_that_was_swapped_is_not_shown(client, gallery, tmp_path):
    status = gallery.paths["id0"].stat()
    other = picture((40, 80), "JPEG")
    gallery.paths["id0"].write_bytes(other + bytes(status.st_size - len(other)))  # a picture of the same size
    os.utime(gallery.paths["id0"], ns=(status.st_atime_ns, status.st_mtime_ns))
    gallery.paths["id1"].unlink()
    gallery.paths["id1"].symlink_to(gallery.paths["id2"])
    os.utime(gallery.paths["id2"])  # only touched
    for image_id, status in (("id0", 404), ("id1", 404), ("id2", 200)):
        assert client.get("/api/image", params={"id": image_id}).status_code == status
        body = {"query": "man", "image_id": image_id}
        assert client.post("/api/explain", json=body).status_code == status
    assert "is not what was indexed" in client.get("/api/image", params={"id": "id0"}).json()["detail"]


def test_a_removed_image_is_not_found(client, gallery):
    def gone(*_, **__):
        raise UnknownImage("id0")  # removed while the call was waiting

    gallery.explain = gallery.query_similar = gone  # type: ignore[method-assign]
    for path, body in (("explain", {"query": "man", "image_id": "id0"}), ("search/similar", {"image_id": "id0"})):
        response = client.post(f"/api/{path}", json=body)
        assert (response.status_code, response.json()["detail"]) == (404, "no image of this gallery has that id")


@pytest.mark.parametrize("image_id", ["id9", "../../etc/passwd", "/etc/passwd", "", "id0/../id1", "%2e%2e%2fid0"])
def test_only_indexed_images_are_served(client, image_id):
    assert client.get("/api/image", params={"id": image_id}).status_code == 404
    for path in ("/api/explain", "/api/search/similar"):
        body = {"image_id": image_id} | ({"query": "man"} if "explain" in path else {})
        assert client.post(path, json=body).status_code in (404, 422)


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/"])
def test_the_page_folder_cannot_be_left(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "import" not in response.text


def test_a_file_that_was_removed_or_replaced_since_is_not_served(client, gallery):
    gallery.paths["id0"].unlink()
    gallery.paths["id1"].write_text("my secret notes")
    for image_id in ("id0", "id1"):
        response = client.get("/api/image", params={"id": image_id})
        assert (response.status_code, "secret" in response.text) == (404, False)
