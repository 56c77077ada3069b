"""The search service as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY

PROGRAM = """
import sys
from gallery.service.server import serve
from tests.helpers.fake_gallery import FakeGallery
from utils.log import set_up_logging

set_up_logging()
serve(FakeGallery([]), port=0, token="correct-horse-battery", audit_log=sys.argv[1], trusted_proxy=sys.argv[2] or None)
"""
RIGHT = {"authorization": "Bearer correct-horse-battery"}


@contextmanager
def running(audit_log: Path, trusted_proxy: str = "") -> Iterator[HTTPConnection]:
    """A connection to the service, which must log nothing but its address."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM, str(audit_log), trusted_proxy]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment) as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        found = re.search(r"search page: http://127\.0\.0\.1:(\d+)/", first_line)
        assert found, first_line
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        yield connection
        connection.close()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    assert rest == ""  # no traceback


def get(connection: HTTPConnection, **headers: str) -> tuple[int, dict]:
    connection.request("GET", "/api/gallery", headers=headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_a_service_says_where_it_is_answers_and_ends_on_ctrl_c(tmp_path):
    with running(tmp_path / "audit.jsonl") as connection:
        assert get(connection)[0] == 401
        status, body = get(connection, **RIGHT)
    assert (status, body["images"]) == (200, 0)


@pytest.mark.parametrize(("trusted", "seen"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.7")])
def test_only_a_trusted_proxy_says_who_asks(tmp_path, trusted, seen):
    """A client can forge the header; a proxy appends the address that it sees."""
    with running(tmp_path / "audit.jsonl", trusted) as connection:
        forged = {"x-forwarded-for": "198.51.100.1, 203.0.113.7", "authorization": "Bearer wrong"}
        assert get(connection, **forged)[0] == 401
    (line,) = map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
    assert (line["action"], line["client"]) == ("sign-in refused", seen)
