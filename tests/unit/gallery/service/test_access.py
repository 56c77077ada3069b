"""Who may use the search service: token, sign-in, host names, other web pages, headers."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from gallery.service.access import COOKIE, SESSION_SECONDS, Access, check_token, is_loopback
from gallery.service.app import create_app
from gallery.service.limits import Limits, Rate, RateLimiter
from gallery.service.page_routes import PAGE
from gallery.service.server import listen, serve
from tests.helpers.fake_gallery import FakeGallery
from utils.errors import UserError

TOKEN = "correct-horse-battery"
NEEDS_TOKEN = ("/api/gallery", "/api/image?id=x", "/openapi.json", "/nowhere")


def client_for(token: str | None = TOKEN, *, base_url: str = "http://search.example", **options) -> TestClient:
    app = create_app(FakeGallery([]), token=token, **options)
    return TestClient(app, base_url=base_url, follow_redirects=False)


# ---- where a token is needed ----


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7"])
def test_no_service_on_other_hosts_without_a_token(host):
    with pytest.raises(UserError, match="give --token TOKEN as well"):
        serve(FakeGallery([]), host=host, port=0)


def test_loopback_is_told_from_other_hosts():
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1"))
    with pytest.raises(UserError, match=r"host 'no\.such\.host\.invalid' has no address"):
        is_loopback("no.such.host.invalid")


@pytest.mark.parametrize("token", ["", "short", "has a space in its middle", "ümlaut-in-a-long-token", "x" * 15])
def test_a_weak_token_is_refused(token):
    with pytest.raises(UserError, match="at least 16 ASCII characters"):
        check_token(token, "127.0.0.1")


@pytest.mark.parametrize("address", ["*", "", "proxy.example", "10.0.0.1/8", "127.0.0.1,10.0.0.1"])
def test_a_trusted_proxy_is_one_address_or_network(address):
    with pytest.raises(UserError, match=r"trusted proxy .*: expected an address or a network"):
        serve(FakeGallery([]), port=0, trusted_proxy=address)


def test_a_port_in_use_is_told_in_one_line():
    with listen("127.0.0.1", 0) as listener, pytest.raises(UserError, match="give another --port"):
        serve(FakeGallery([]), port=listener.getsockname()[1])
    with pytest.raises(UserError, match="give another --port"):
        serve(FakeGallery([]), port=70000)


# ---- token and sign-in ----


def test_without_the_token_there_is_nothing_but_the_form():
    client = client_for()
    for path in NEEDS_TOKEN:
        response = client.get(path)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/api/search", json={"query": "man"}).status_code == 401
    assert (client.get("/").status_code, client.get("/").headers["location"]) == (303, "/sign-in")
    assert client.get("/sign-in").status_code == client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
def test_bearer_header(header, status):
    assert client_for().get("/api/gallery", headers={"authorization": header}).status_code == status


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    access = Access(TOKEN)
    assert access.is_token(TOKEN)
    assert not access.is_token("x")
    assert len(compared) == 2
    assert {len(side) for pair in compared for side in pair} == {32}  # digests: not even the length shows


def test_the_form_signs_a_browser_in_and_out():
    client = client_for()
    refused = client.post("/sign-in", data={"token": "wrong"})
    assert refused.status_code == 401
    assert "This is not the token." in refused.text
    assert COOKIE not in client.cookies
    accepted = client.post("/sign-in", data={"token": TOKEN})
    assert (accepted.status_code, accepted.headers["location"]) == (303, "/")
    cookie = accepted.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    assert client.get("/").status_code == client.get("/api/gallery").status_code == 200
    kept = dict(client.cookies)
    assert client.post("/sign-out").status_code == 303
    assert client.get("/api/gallery").status_code == 401
    assert client.get("/api/gallery", headers={"cookie": f"{COOKIE}={kept[COOKIE]}"}).status_code == 401


def test_the_cookie_of_an_encrypted_connection_stays_on_it():
    client = client_for(base_url="https://search.example")
    assert "Secure" in client.post("/sign-in", data={"token": TOKEN}).headers["set-cookie"]


def test_a_sign_in_ends_and_their_number_is_bounded(monkeypatch):
    monkeypatch.setattr("gallery.service.access.MAX_SESSIONS", 2)
    now = [0.0]
    access = Access(TOKEN, clock=lambda: now[0])
    cookies = []
    for now[0] in (0.0, 1.0, 2.0):
        cookies.append(access.sign_in())
    requests = [SimpleNamespace(headers={}, cookies={COOKIE: cookie}) for cookie in cookies]
    assert [access.is_signed_in(request) for request in requests] == [False, True, True]  # the oldest made room
    now[0] = 1.0 + SESSION_SECONDS
    assert [access.is_signed_in(request) for request in requests] == [False, False, True]
    assert not access.is_signed_in(SimpleNamespace(headers={}, cookies={}))


def test_guessing_is_slow():
    client = client_for(limits=Limits(sign_ins=Rate(burst=2, per_minute=1)))
    statuses = [client.post("/sign-in", data={"token": "wrong"}).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert client.post("/sign-in", data={"token": TOKEN}).status_code == 429


def test_guessing_by_header_is_as_slow(tmp_path):
    limits = Limits(sign_ins=Rate(burst=3, per_minute=1))
    client = client_for(limits=limits, audit_log=tmp_path / "audit.jsonl")
    right, wrong = ({"authorization": f"Bearer {token}"} for token in (TOKEN, "wrong-token-of-somebody"))
    assert [client.get("/api/gallery", headers=right).status_code for _ in range(5)] == [200] * 5  # not limited
    assert client.get("/health", headers=wrong).status_code == 200  # needs none
    statuses = [client.get(path, headers=wrong).status_code for path in ("/api/gallery", "/nowhere", "/", "/")]
    assert statuses == [401, 401, 303, 429]
    refused = client.get("/api/gallery", headers=right)  # otherwise a guesser would learn that the token is right
    assert (refused.status_code, int(refused.headers["retry-after"]) > 50) == (429, True)
    assert client.post("/sign-in", data={"token": TOKEN}).status_code == 429  # shares its limit with the form
    log = (tmp_path / "audit.jsonl").read_text()
    assert re.findall(r'"action": "([^"]+)"', log) == ["sign-in refused"] * 3
    assert "wrong-token" not in log


def test_without_a_token_a_header_is_no_try():
    client = client_for(None, base_url="http://localhost", limits=Limits(sign_ins=Rate(burst=1, per_minute=1)))
    headers = {"authorization": "Bearer of-another-service"}
    assert [client.get("/api/gallery", headers=headers).status_code for _ in range(3)] == [200] * 3


def test_sign_ins_are_logged_without_the_token(tmp_path: Path):
    client = client_for(audit_log=tmp_path / "audit.jsonl")
    client.post("/sign-in", data={"token": "wrong-token"})
    client.post("/sign-in", data={"token": TOKEN})
    log = (tmp_path / "audit.jsonl").read_text()
    assert re.findall(r'"action": "([^"]+)"', log) == ["sign-in refused", "sign-in"]
    assert "wrong-token" not in log
    assert TOKEN not in log


# ---- browsers ----


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),  # another site whose name resolves to 127.0.0.1
        ("localhost.evil.example", 403),
        ("127.0.0.1:8000@evil.example", 403),
        ("", 403),
    ],
)
def test_without_a_token_only_loopback_names_are_answered(host, status):
    client = client_for(None, base_url="http://localhost")
    assert client.get("/api/gallery", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
)
def test_other_pages_cannot_use_the_service(site, status):
    client = client_for(None, base_url="http://localhost")
    headers = {"sec-fetch-site": site}
    assert client.get("/api/gallery", headers=headers).status_code == status
    assert client.post("/api/search", json={"query": "man"}, headers=headers).status_code == status
    assert client.get("/", headers=headers).status_code == 200  # a link to the page works


@pytest.mark.parametrize("path", ["/", "/page/script.js", "/api/gallery", "/nowhere", "/health"])
def test_every_answer_carries_the_security_headers(path):
    headers = client_for(None, base_url="http://localhost").get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers
    assert headers["cache-control"] == ("no-cache" if path.startswith("/page/") else "no-store")


def test_the_page_names_no_other_host_and_has_no_inline_script():
    for path in PAGE.iterdir():
        text = path.read_text()
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"']*", text)) - {"http://www.w3.org/2000/svg"}
        assert addresses == set(), path
        if path.suffix == ".html":
            assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", text), path
        if path.suffix == ".js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text), path


# ---- rate ----


def test_a_bucket_empties_fills_up_again_and_belongs_to_one_client():
    now = [0.0]
    limiter = RateLimiter(Rate(burst=2, per_minute=30), clock=lambda: now[0])
    assert [limiter.seconds_to_wait("a") for _ in range(3)] == [0, 0, 2.0]
    assert limiter.seconds_to_wait("b") == 0
    now[0] = 1.5
    assert limiter.seconds_to_wait("a") == pytest.approx(0.5)
    now[0] = 2.0
    assert limiter.seconds_to_wait("a") == 0
    assert [limiter.seconds_to_wait("a", take=False) for _ in range(2)] == [2.0] * 2
    now[0] = 1000.0
    assert [limiter.seconds_to_wait("a", take=False) for _ in range(9)] == [0] * 9
    assert [limiter.seconds_to_wait("a") for _ in range(3)] == [0, 0, 2.0]  # never more than a burst


def test_buckets_of_clients_not_seen_for_long_are_dropped(monkeypatch):
    monkeypatch.setattr("gallery.service.limits.MAX_CLIENTS", 2)
    limiter = RateLimiter(Rate(burst=1, per_minute=1), clock=lambda: 0.0)
    assert [limiter.seconds_to_wait(client) for client in "abac"] == [0, 0, 60, 0]
    assert limiter.seconds_to_wait("a") == 60  # seen after b, which made room
    assert limiter.seconds_to_wait("b") == 0


def test_another_origin_gets_no_permission_from_the_service():
    client = client_for(None, base_url="http://localhost")
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    asked = client.options("/api/search", headers=headers)  # what a browser sends before it sends JSON elsewhere
    assert (asked.status_code, asked.headers.get("access-control-allow-origin")) == (405, None)
    answer = client.post("/api/search", json={"query": "man"}, headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
