"""The service over HTTP with a real gallery: a small model and its index, also of rotated pictures."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from gallery import Gallery
from gallery.indexing.commands import build_index
from gallery.indexing.removal import remove_images
from gallery.indexing.request import IndexingRequest
from gallery.service.app import create_app
from gallery.store.segments import image_id
from tests.helpers.benchmark import read_split
from tests.helpers.search_runs import CPU

SENTENCE = "a man with a red backpack and black shoes"
TOKEN = "correct-horse-battery"


@pytest.fixture
def folder(tiny_benchmark, tmp_path):
    """The test images as 0.jpg, 1.jpg, ..."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, record in enumerate(read_split(tiny_benchmark, "test")):
        shutil.copy(tiny_benchmark / "imgs" / record["file_path"], folder / f"{number}.jpg")
    return folder


def client_of(folder: Path, checkpoint: Path, **options) -> TestClient:
    index = folder.parent / "index"
    build_index(IndexingRequest(images=folder, checkpoint=checkpoint, index=index, tokens="no"), CPU)
    app = create_app(Gallery.open(index, device="cpu"), **options)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def post(client: TestClient, path: str, **body) -> dict:
    response = client.post(f"/api/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def shown(client: TestClient, image: str) -> Image.Image:
    response = client.get("/api/image", params={"id": image})
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def test_everything_that_the_page_asks_for(folder, checkpoint):
    client = client_of(folder, checkpoint)
    assert client.get("/api/gallery").json()["images"] == 8
    exact = post(client, "search", query=SENTENCE, top=3)
    assert (exact["mode"], len(exact["hits"])) == ("exact", 3)
    assert [part["text"] for part in exact["hits"][0]["parts"]] == ["red backpack", "black shoes"]
    assert [hit["score"] for hit in exact["hits"]] == sorted((hit["score"] for hit in exact["hits"]), reverse=True)
    fast = post(client, "search", query=SENTENCE, fast=True)
    assert (fast["mode"], len(fast["hits"]), fast["hits"][0]["parts"]) == ("fast", 8, [])
    assert {hit["image_id"] for hit in exact["hits"]} == {hit["image_id"] for hit in fast["hits"][:3]}

    best = exact["hits"][0]
    words = post(client, "explain", query=SENTENCE, image_id=best["image_id"])["words"]
    assert [word["word"] for word in words] == SENTENCE.split()
    assert [word["part"] for word in words] == [0, 0, 0, 0, 1, 1, 0, 2, 2]
    assert np.shape([word["heat"] for word in words]) == (9, 4, 4)
    with Image.open(best["file"]) as original, shown(client, best["image_id"]) as image:
        assert image.size == original.size
        assert np.abs(np.asarray(image, float) - np.asarray(original, float)).mean() < 8  # encoded as JPEG again

    similar = post(client, "search/similar", image_id=best["image_id"], top=4)
    data = Path(best["file"]).read_bytes()
    uploaded = client.post("/api/search/image", files={"image": ("me.jpg", data)}, data={"top": 4}).json()
    for answer in (similar, uploaded):
        assert answer["hits"][0]["image_id"] == best["image_id"]
        assert answer["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    for one, other in zip(similar["hits"], uploaded["hits"], strict=True):
        assert (one["image_id"], one["similarity"]) == (other["image_id"], pytest.approx(other["similarity"], abs=1e-5))

    for path in ("explain", "search/similar"):
        body = {"image_id": "0" * 16} | ({"query": "a man"} if path == "explain" else {})
        assert client.post(f"/api/{path}", json=body).status_code == 404


def test_who_needs_a_token_learns_nothing_of_the_machine(folder, checkpoint, tmp_path):
    client = client_of(folder, checkpoint, token=TOKEN)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    hits = client.post("/api/search", json={"query": SENTENCE})
    responses = [hits, client.get("/api/gallery")]
    checkpoint_gone = client.post("/api/search", json={"query": "?!"})
    (folder / "0.jpg").unlink()
    responses += [checkpoint_gone, client.post("/api/explain", json={"query": "man", "image_id": image_id("0.jpg")})]
    shutil.rmtree(tmp_path / "index")
    responses += [client.post("/api/search", json={"query": SENTENCE}), client.get("/api/gallery")]
    assert [response.status_code for response in responses] == [200, 200, 422, 404, 422, 503]
    text = "".join(response.text for response in responses)
    assert "/" not in text.replace("8/8", "")
    assert "the query is empty" in text


def test_another_process_removes_somebody_while_the_service_runs(folder, checkpoint):
    client = client_of(folder, checkpoint)
    gone = image_id("3.jpg")
    shown(client, gone).close()
    remove_images(folder.parent / "index", ["3.jpg"])
    for path, status in (("/api/image", 404), ("/api/gallery", 200)):
        assert client.get(path, params={"id": gone}).status_code == status
    assert client.post("/api/search/similar", json={"image_id": gone}).status_code == 404
    assert gone not in {hit["image_id"] for hit in post(client, "search", query=SENTENCE, fast=True)["hits"]}
    assert client.get("/api/gallery").json()["images"] == 7


def test_a_swapped_picture_is_neither_shown_nor_judged(folder, checkpoint):
    client = client_of(folder, checkpoint)
    before = post(client, "search", query=SENTENCE)["hits"]
    swapped, linked, other = before[:3]
    shutil.copy(other["file"], swapped["file"])
    Path(linked["file"]).unlink()
    Path(linked["file"]).symlink_to("/etc/passwd")
    for hit in (swapped, linked):
        assert client.get("/api/image", params={"id": hit["image_id"]}).status_code == 404
        body = {"query": SENTENCE, "image_id": hit["image_id"]}
        assert client.post("/api/explain", json=body).status_code == 404
    after = {hit["image_id"] for hit in post(client, "search", query=SENTENCE)["hits"]}
    assert after.isdisjoint({swapped["image_id"], linked["image_id"]})


def test_a_picture_on_its_side_is_the_same_person(folder, checkpoint):
    """Orientation 6: the camera was rotated and EXIF says so. Sixteen bits: the same picture, finer."""
    with Image.open(folder / "0.jpg") as image:
        upright = image.convert("RGB").resize((64, 128))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(folder / "upright.jpg", quality=98, subsampling=0)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.save(folder / "turned.jpg", quality=98, subsampling=0, exif=exif)
    lying.save(folder / "lying.jpg", quality=98, subsampling=0)
    grey = np.asarray(upright.convert("L"))
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 256 + 77).save(folder / "deep.png")
    client = client_of(folder, checkpoint)
    for one, other in (("turned.jpg", "upright.jpg"), ("deep.png", "grey.png")):
        hits = post(client, "search/similar", image_id=image_id(one), group=False)["hits"]
        similarity = {hit["image_id"]: hit["similarity"] for hit in hits}
        assert similarity[image_id(other)] == pytest.approx(1, abs=2e-3)
        with shown(client, image_id(one)) as seen, shown(client, image_id(other)) as twin:
            assert seen.size == twin.size == (64, 128)
            assert np.abs(np.asarray(seen, float) - np.asarray(twin, float)).mean() < 3
        heats = []
        for name in (one, other):
            words = post(client, "explain", query=SENTENCE, image_id=image_id(name))["words"]
            heats.append(np.array([word["heat"] for word in words]))
        np.testing.assert_allclose(*heats, rtol=0, atol=0.1)  # of the picture as the page shows it
    (first, *_) = post(client, "search/similar", image_id=image_id("upright.jpg"))["hits"]
    assert {first["image_id"], *first["group"]["near_copies"]} >= {image_id("turned.jpg"), image_id("upright.jpg")}
    hits = post(client, "search/similar", image_id=image_id("upright.jpg"), group=False)["hits"]
    assert {hit["image_id"]: hit["similarity"] for hit in hits}[image_id("lying.jpg")] < 0.9  # it looks different
    exact = {
        hit["image_id"]: hit["score"] for hit in post(client, "search", query=SENTENCE, top=12, group=False)["hits"]
    }
    assert exact[image_id("turned.jpg")] == pytest.approx(exact[image_id("upright.jpg")], abs=0.1)
