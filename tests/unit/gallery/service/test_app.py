"""The search service's JSON interface, with a gallery that needs no model."""

import hashlib
import json
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from gallery.service.app import create_app
from gallery.service.limits import Limits, Rate
from tests.helpers.fake_gallery import COLUMNS, ROWS, FakeGallery, client_for, picture, upload
from utils.errors import UserError

SENTENCE = "a young woman with a white shirt"


# ---- searching ----


def test_a_sentence_gives_ranked_hits_with_the_score_of_each_part(client, gallery):
    answer = client.post("/api/search", json={"query": f"  {SENTENCE} ", "top": 3}).json()
    assert gallery.asked == [("query", SENTENCE, 3, False)]
    assert (answer["query"], answer["mode"], answer["nothing_matches"]) == (SENTENCE, "exact", False)
    assert answer["confidence"] == pytest.approx(0.93)
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert [hit["image_id"] for hit in answer["hits"]] == ["id0", "id1", "id2"]
    assert [part["text"] for part in answer["hits"][0]["parts"]] == ["young woman", "white shirt"]
    assert answer["hits"][0]["parts"][0]["score"] == pytest.approx(0.97)
    assert answer["hits"][0]["file"] == str(gallery.paths["id0"])


def test_who_needs_a_token_sees_no_folders_of_the_server(gallery):
    client = client_for(gallery, token="correct-horse-battery")
    client.headers["authorization"] = "Bearer correct-horse-battery"
    info = client.get("/api/gallery").json()
    assert (info["signed_in"], info["details"]) == (True, {"images": 5, "calibrated": True})  # only the keys in FOR_ALL
    assert client.post("/api/search", json={"query": SENTENCE}).json()["hits"][0]["file"] == "person 0.jpg"


def test_errors_name_no_paths_to_who_needs_a_token(gallery, caplog):
    def refuse(*_, **__):
        raise UserError("engine http://10.0.0.7:19530: /srv/secret.pth is not there")

    gallery.query = refuse  # type: ignore[method-assign]
    client = client_for(gallery, token="correct-horse-battery")
    client.headers["authorization"] = "Bearer correct-horse-battery"
    response = client.post("/api/search", json={"query": SENTENCE})
    told = {"detail": "the service cannot answer this; its log says why"}
    assert (response.status_code, response.json()) == (422, told)
    assert "/srv/secret.pth" in caplog.text
    gallery.query = FakeGallery(list(gallery.paths.values())).query  # type: ignore[method-assign]
    assert client.post("/api/search", json={"query": "bad"}).json() == told
    empty = client.post("/api/search", json={"query": "?!"})  # a mistake of the user, which names nothing of the server
    assert (empty.status_code, empty.json()) == (422, {"detail": "the query is empty"})
    assert "no readable picture" in upload(client, b"x").json()["detail"]
    gallery.paths["id1"].write_bytes(b"x")
    gone = client.post("/api/explain", json={"query": "man", "image_id": "id1"})
    assert (gone.status_code, str(gallery.paths["id1"].parent) in gone.text) == (404, False)


def test_fast_search_has_no_parts(client, gallery):
    answer = client.post("/api/search", json={"query": SENTENCE, "fast": True}).json()
    assert gallery.asked == [("query", SENTENCE, 20, True)]
    assert (answer["mode"], answer["hits"][0]["parts"]) == ("fast", [])


def test_an_index_that_is_not_calibrated_says_so(gallery):
    gallery.calibrated = False
    client = client_for(gallery)
    assert client.get("/api/gallery").json()["calibrated"] is False
    answer = client.post("/api/search", json={"query": SENTENCE}).json()
    assert (answer["nothing_matches"], answer["confidence"]) == (None, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": "x" * 501}, "query: String should have at most 500 characters"),
        ({"query": "   "}, "query: String should have at least 1 character"),
        ({}, "query: Field required"),
        ({"query": "man", "top": 201}, "top: Input should be less than or equal to 200"),
        ({"query": "man", "top": 0}, "top: Input should be greater than or equal to 1"),
        ({"query": "man", "tpo": 3}, "tpo: Extra inputs are not permitted"),
        ({"query": "bad"}, "the sentence has no word that the model knows"),
    ],
)
def test_a_wrong_search_is_refused_in_one_sentence(client, body, message):
    response = client.post("/api/search", json=body)
    assert (response.status_code, response.json()) == (422, {"detail": message})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{not json", 422),
        (b"", 422),
        (b"null", 422),
        (b"\xff\xfe\x00", 400),
        (b"[" * 3000, 400),
        (b'{"a":' * 3000, 400),
        (b'{"query": "\\ud800"}', 422),
        (b'{"query": "man", "top": NaN}', 422),
        (b'{"query": "man", "top": 1e400}', 422),
    ],
)
def test_a_malformed_request_is_refused(client, gallery, body, status):
    response = client.post("/api/search", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status
    assert "\n" not in response.json()["detail"]
    assert gallery.asked == []


def test_word_pieces_that_the_model_does_not_know_are_told(client):
    answer = client.post("/api/search", json={"query": "a man with 书包 and 鞋"}).json()
    assert (answer["num_pieces"], answer["unknown_pieces"]) == (6, ["书包", "鞋"])
    answer = client.post("/api/search", json={"query": "a man"}).json()
    assert (answer["num_pieces"], answer["unknown_pieces"]) == (2, [])


def test_words_that_were_not_understood_and_what_the_sentence_denies_are_told(client):
    answer = client.post("/api/search", json={"query": "a 鞋 man without glasses"}).json()
    assert (answer["unknown_words"], answer["negated"]) == (["鞋"], ["glasses"])
    answer = client.post("/api/search/similar", json={"image_id": "id0"}).json()
    assert (answer["unknown_words"], answer["negated"]) == ([], [])


def test_marks_reach_the_gallery_and_the_audit_log(gallery, tmp_path):
    client = client_for(gallery, audit_log=tmp_path / "log.jsonl")
    marks = {"liked": ["id0", "id2"], "disliked": ["id1"]}
    asked = [("/api/search", {"query": "man"}), ("/api/search/similar", {"image_id": "id0"})]
    answers = [client.post(path, json={**body, **marks}) for path, body in asked]
    answers.append(upload(client, picture(), **marks))
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [question[-1] for question in gallery.asked] == [marks] * 3
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [{name: line[name] for name in marks} for line in lines] == [marks] * 3
    assert client.post("/api/search", json={"query": "man", "liked": ["id0"] * 51}).status_code == 422


def test_a_fault_of_ours_tells_no_details_and_does_not_stop_the_service(client):
    response = client.post("/api/search", json={"query": "crash"})
    assert (response.status_code, response.json()) == (500, {"detail": "the service failed; its log says why"})
    assert response.headers["x-content-type-options"] == "nosniff"
    assert client.post("/api/search", json={"query": "man"}).status_code == 200


def test_explanation_gives_a_grid_per_word(client):
    words = client.post("/api/explain", json={"query": SENTENCE, "image_id": "id1"}).json()["words"]
    assert [word["word"] for word in words] == SENTENCE.split()
    assert [word["part"] for word in words] == [0, 1, 1, 0, 0, 2, 2]
    assert all(len(word["heat"]) == ROWS and len(word["heat"][0]) == COLUMNS for word in words)


def test_no_part_numbers_where_an_answer_has_no_parts(gallery):
    client = client_for(FakeGallery(list(gallery.paths.values()), second_stage=False))
    assert client.post("/api/search", json={"query": SENTENCE}).json()["hits"][0]["parts"] == []
    words = client.post("/api/explain", json={"query": SENTENCE, "image_id": "id1"}).json()["words"]
    assert {word["part"] for word in words} == {0}


def test_the_gallery_is_described(client):
    info = client.get("/api/gallery").json()
    assert (info["images"], info["calibrated"], info["signed_in"]) == (5, True, False)
    assert (info["details"]["model"], info["details"]["root"]) == ("fake", "/srv")
    assert client.get("/health").json() == {"status": "ok"}


# ---- one model for all ----


def test_the_model_answers_one_call_at_a_time_and_few_may_wait(gallery):
    client = client_for(gallery, limits=Limits(waiting_calls=1))
    working, finish = threading.Event(), threading.Event()
    inside, most = [], []

    def slow_query(sentence, **options):
        inside.append(sentence)
        most.append(len(inside))
        working.set()
        assert finish.wait(60)
        inside.remove(sentence)
        return FakeGallery.query(gallery, sentence, **options)

    gallery.query = slow_query  # type: ignore[method-assign]
    with client, ThreadPoolExecutor(4) as pool:  # `with`: one event loop for all requests
        first = pool.submit(client.post, "/api/search", json={"query": "man"})
        try:
            assert working.wait(60)
            others = [pool.submit(client.post, "/api/search", json={"query": f"man {number}"}) for number in range(2)]
            refused, _ = wait(others, 60, FIRST_COMPLETED)
            assert [response.result().status_code for response in refused] == [503]
            assert client.get("/health").status_code == 200  # while the model works
        finally:
            finish.set()
        statuses = sorted(response.result(60).status_code for response in (first, *others))
    assert statuses == [200, 200, 503]
    assert max(most) == 1


def test_too_many_calls_of_one_client_are_refused_for_a_while(gallery):
    client = client_for(gallery, limits=Limits(model_calls=Rate(burst=2, per_minute=1)))
    statuses = [client.post("/api/search", json={"query": "man"}).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    response = client.post("/api/explain", json={"query": "man", "image_id": "id0"})
    assert (response.status_code, int(response.headers["retry-after"]) > 50) == (429, True)
    assert client.get("/api/image", params={"id": "id0"}).status_code == 200


# ---- audit log ----


def test_the_audit_log_tells_who_was_searched_for(gallery, tmp_path):
    path = tmp_path / "log" / "audit.jsonl"
    path.parent.mkdir()
    client = client_for(gallery, audit_log=path)
    data = picture()
    client.post("/api/search", json={"query": 'line\nbreak "quoted"', "top": 2})
    upload(client, data, top=1)
    client.post("/api/search/similar", json={"image_id": "id1", "top": 1})
    client.post("/api/explain", json={"query": "man", "image_id": "id1"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["action"] for line in lines] == ["search", "search", "search", "explain"]
    assert all(line.pop("client") == "testclient" and line.pop("time").endswith("+00:00") for line in lines)
    assert lines[0]["query"] == 'line\nbreak "quoted"'
    assert lines[0]["shown"] == ["id0", "id1"]
    assert lines[1]["image_sha256"] == hashlib.sha256(data).hexdigest()
    assert (lines[2]["image_id"], lines[3]["image_id"]) == ("id1", "id1")
    assert path.stat().st_mode & 0o077 == 0


def test_only_its_owner_can_read_the_audit_log(gallery, tmp_path):
    path = tmp_path / "audit.jsonl"
    path.write_text('{"old": 1}\n')
    path.chmod(0o644)
    client = client_for(gallery, audit_log=path)
    assert path.stat().st_mode & 0o777 == 0o600
    client.post("/api/search", json={"query": "man"})
    assert len(path.read_text().splitlines()) == 2


def test_nothing_is_answered_that_cannot_be_logged(gallery, tmp_path):
    path = tmp_path / "audit.jsonl"
    client = client_for(gallery, audit_log=path)
    path.unlink()
    path.mkdir()
    response = client.post("/api/search", json={"query": "man"})
    assert (response.status_code, "hits" in response.json()) == (500, False)
    with pytest.raises(UserError, match="cannot write the audit log"):
        create_app(gallery, audit_log=path)


# ---- description ----


def test_openapi_describes_every_call_with_examples(client):
    description = client.get("/openapi.json").json()
    calls = {"/api/search", "/api/search/image", "/api/search/similar", "/api/explain", "/api/gallery", "/api/image"}
    origins = {"/api/sources", "/api/origin", "/api/track", "/api/frame", "/api/video"}
    assert set(description["paths"]) == calls | origins | {"/health"}
    schemas = description["components"]["schemas"]
    for path in (calls | origins) - {"/api/image", "/api/frame", "/api/video"}:
        method = next(iter(description["paths"][path].values()))
        answer = method["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert schemas[answer]["properties"]
    assert schemas["SearchRequest"]["properties"]["query"]["examples"]
    assert schemas["SearchRequest"]["properties"]["query"]["maxLength"] == 500
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


@pytest.mark.parametrize(
    ("token", "told"),
    [(None, "/srv has no index"), ("correct-horse-battery", "the service cannot answer this; its log says why")],
)
def test_an_index_that_is_gone_is_said_so(gallery, monkeypatch, token, told):
    def gone(*_):
        raise UserError("/srv has no index")

    monkeypatch.setattr(FakeGallery, "describe", gone)
    monkeypatch.setattr(FakeGallery, "image", gone)
    client = client_for(gallery, token=token)
    for path in ("/api/gallery", "/api/image?id=id0"):
        response = client.get(path, headers={"authorization": f"Bearer {token}"})
        assert (response.status_code, response.json()["detail"]) == (503, told)
