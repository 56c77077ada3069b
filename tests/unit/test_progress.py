"""Progress without and with a terminal."""

import io
import logging

from utils import progress as module
from utils.progress import progress


def test_lines_while_it_runs_and_one_at_the_end(monkeypatch, caplog):
    clock = iter([0.0, 4.0, 12.0, 13.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), progress("caching images", 100, "images") as advance:
        for count in (30, 30, 40):
            advance(count)
    assert [record.message for record in caplog.records] == [
        "caching images: 60 of 100, 5 images/s, 8 s left",
        "caching images: 100 images in 20.0 s, 5/s",
    ]


def test_bar_on_a_terminal(monkeypatch, caplog):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with caplog.at_level(logging.INFO), progress("caching images", 3, "images") as advance:
        advance(3)
    assert "3/3" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()
    assert caplog.records == []
