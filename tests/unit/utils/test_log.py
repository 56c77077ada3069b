"""Log set-up, progress lines, and which exceptions a command line tells in one line."""

import errno
import io
import logging
import re

import pytest
from rich.console import Console
from torch._utils import ExceptionWrapper

from utils import log
from utils.config import ConfigError
from utils.errors import UserError
from utils.log import one_line_errors, progress, set_up_logging


@pytest.fixture(autouse=True)
def leave_no_trace():
    level = logging.getLogger().level
    yield
    set_up_logging()
    for handler in [handler for handler in logging.getLogger().handlers if handler.get_name() in log._HANDLER_NAMES]:
        logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(level)


class Clock:
    """A clock that goes on by `step` seconds whenever it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def failing(error: BaseException):
    @one_line_errors
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("no images in ./data"), "no images in ./data", 2),
        (ConfigError("a.yaml:3: lr: unknown key"), "a.yaml:3: lr: unknown key", 2),
        (UserError("two\n  lines"), "two lines", 2),
        (FileNotFoundError("train.json is missing; run shell/data_process.sh"), None, 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pth"), "a.pth: No such file or directory", 2),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: Permission denied", 2),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device", 2),
        (FloatingPointError("step 3: itc is nan"), "step 3: itc is nan", 2),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_mistakes_of_the_user_are_one_line(error, line, code, capsys):
    assert failing(error)() == code
    assert capsys.readouterr().err == f"error: {line or error}\n"


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), RuntimeError("a bug"), KeyError("x"), OSError(errno.EIO, "I/O error")]
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        failing(error)()


def test_exit_code_of_success():
    assert one_line_errors(lambda: None)() == 0
    assert one_line_errors(lambda code: code)(3) == 3


def test_mistake_in_a_loader_process_is_one_line(capsys):
    @one_line_errors
    def main() -> None:
        try:
            raise UserError("imgs/0.jpg: cannot be decoded")
        except UserError:
            # how a DataLoader hands on what its process raised: the same class, that process' traceback as message
            passed_on = ExceptionWrapper(where="in DataLoader worker process 0")
        passed_on.reraise()

    assert main() == 2
    assert capsys.readouterr().err == "error: imgs/0.jpg: cannot be decoded\n"


def test_file_holds_lines_and_the_end(tmp_path):
    set_up_logging(tmp_path)
    logging.getLogger("train").info("epoch %d", 1)
    failing(UserError("no images"))()
    with pytest.raises(RuntimeError):
        failing(RuntimeError("a bug"))()
    text = (tmp_path / "train.log").read_text()
    assert re.search(r"INFO epoch 1\n.*ERROR no images\n", text)
    assert "raise error\nRuntimeError: a bug" in text


def test_set_up_twice_writes_each_line_once(tmp_path, capsys):
    set_up_logging(tmp_path)
    set_up_logging(tmp_path)
    logging.getLogger("train").info("epoch 1")
    assert (tmp_path / "train.log").read_text().count("epoch 1") == 1
    assert capsys.readouterr().err.count("epoch 1") == 1


def test_other_processes_show_warnings_only(tmp_path, capsys):
    set_up_logging(tmp_path, is_main=False)
    logging.getLogger("train").info("epoch 1")
    logging.getLogger("train").warning("image left out")
    assert not (tmp_path / "train.log").exists()
    assert re.fullmatch(r"[\d:]+ WARNING image left out\n", capsys.readouterr().err)


def test_progress_without_terminal_writes_a_line_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(log, "_console", Console(file=io.StringIO()))
    monkeypatch.setattr(log, "time", Clock(step=4))  # read once per unit: 4 seconds each
    caplog.set_level(logging.INFO)
    with progress(6, "decode") as bar:
        for _ in range(6):
            bar.advance()
    assert caplog.messages == [
        "decode: 3/6 images, 0.25 images/s, 0:00:12 left",
        "decode: 6/6 images, 0.25 images/s, 0:00:00 left",
        "decode: 6 images in 0:00:28, 0.214 images/s",
    ]


def test_quick_work_is_silent_and_items_pass_through(monkeypatch, caplog):
    monkeypatch.setattr(log, "_console", Console(file=io.StringIO()))
    caplog.set_level(logging.INFO)
    assert list(progress((n for n in range(5)), "count", unit="numbers")) == [0, 1, 2, 3, 4]
    assert caplog.messages == []


def test_progress_without_length_has_no_time_left(monkeypatch, caplog):
    monkeypatch.setattr(log, "_console", Console(file=io.StringIO()))
    monkeypatch.setattr(log, "time", Clock(step=20))
    caplog.set_level(logging.INFO)
    list(progress((n for n in range(1)), "count", unit="numbers"))
    assert caplog.messages[0] == "count: 1 numbers, 0.05 numbers/s"


def test_progress_on_a_terminal_draws_a_bar(monkeypatch, caplog):
    screen = io.StringIO()
    monkeypatch.setattr(log, "_console", Console(file=screen, force_terminal=True, width=100))
    caplog.set_level(logging.INFO)
    list(progress(range(5), "decode [0/3]"))
    assert "decode [0/3]" in screen.getvalue()
    assert "5/5" in screen.getvalue()
    assert "images/s" in screen.getvalue()


def test_a_subclass_writes_below_the_bar(monkeypatch, caplog):
    class Noted(progress):
        def note(self, width):
            return f"itc 3.94, {width} columns"

    screen = io.StringIO()
    monkeypatch.setattr(log, "_console", Console(file=screen, force_terminal=True, width=90))
    caplog.set_level(logging.INFO)
    list(Noted(range(3), "epoch 1/2"))
    assert re.search(r"epoch 1/2 .*\n.*itc 3\.94, 90 columns", screen.getvalue())


def test_no_bar_in_other_processes(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(log, "_console", Console(file=screen, force_terminal=True))
    set_up_logging(is_main=False)
    list(progress(range(5), "decode"))
    assert screen.getvalue() == ""
