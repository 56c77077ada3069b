"""The search service as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection

from tests.conftest import REPOSITORY

PROGRAM = """
from gallery.service import serve
from tests.unit.fake_gallery import FakeGallery
from utils.log import set_up_logging

set_up_logging()
serve(FakeGallery([]), port=0, token="correct-horse-battery")
"""


def test_a_service_says_where_it_is_answers_and_ends_on_ctrl_c():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment) as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        found = re.search(r"search page: http://127\.0\.0\.1:(\d+)/", first_line)
        assert found, first_line
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        statuses = []
        for headers in ({}, {"authorization": "Bearer correct-horse-battery"}):
            connection.request("GET", "/api/gallery", headers=headers)
            response = connection.getresponse()
            statuses.append(response.status)
            body = json.loads(response.read())
        connection.close()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    assert statuses == [401, 200]
    assert body["images"] == 0
    assert rest == ""  # no traceback
