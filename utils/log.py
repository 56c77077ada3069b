"""What a run tells its user: log lines, progress of long work, and one line instead of a traceback for a mistake.

All of this goes to standard error: a live bar and coloured lines on a terminal, plain lines otherwise. The results of a
command go to standard output, and the command itself prints them.
"""

import errno
import functools
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from rich import progress as rich_progress
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.text import Text

from utils.errors import UserError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Bar = TypeVar("Bar", bound="progress[Any]")
P = ParamSpec("P")

LINE_EVERY_SECONDS = 10.0  # between progress lines without a terminal

_console = Console(stderr=True)  # shared, so that log lines appear above a live bar
_HANDLER_NAMES = ("mamba-tbps console", "mamba-tbps file")
_CHATTY = ("httpx", "matplotlib", "absl")  # libraries that report details at level INFO
_USER_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # disk full, over quota, read-only


def set_up_logging(folder: Path | None = None, *, is_main: bool = True) -> None:
    """Send log lines to standard error and, if there is a folder, append them to folder/train.log.

    Other processes than the main one show only warnings and write no file. A second call replaces the first set-up.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() in _HANDLER_NAMES]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.WARNING)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)

    console: logging.Handler
    if _console.is_terminal:
        console = RichHandler(console=_console, show_path=False, log_time_format="%H:%M:%S")
    else:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    handlers: list[logging.Handler] = [console]
    if folder is not None and is_main:
        handlers.append(logging.FileHandler(folder / "train.log", encoding="utf-8"))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler, name in zip(handlers, _HANDLER_NAMES, strict=False):
        handler.set_name(name)
        root.addHandler(handler)


class _Bar(rich_progress.Progress):
    """A progress bar of rich with a line of text below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, no_wrap=True, overflow="ellipsis")


class progress(Generic[T]):
    """Show the progress of some work, its rate and the time left, over an iterable or by hand:

        for batch in progress(loader, "train", unit="batches"):
            ...
        with progress(len(paths), "decode", unit="images") as bar:
            bar.advance(8)

    A terminal shows a live bar; otherwise a line is logged every LINE_EVERY_SECONDS. Nothing is shown if INFO is not
    logged (set_up_logging was not called, or this is not the main process).
    """

    @overload
    def __init__(self: "progress[int]", work: int, description: str, unit: str = "images") -> None: ...
    @overload
    def __init__(self, work: Iterable[T], description: str, unit: str = "images") -> None: ...
    def __init__(self, work: Any, description: str, unit: str = "images") -> None:
        self._items: Any = range(work) if isinstance(work, int) else work
        self._total = len(self._items) if isinstance(self._items, Sized) else None
        self._description, self._unit = description, unit
        self._done = 0
        self._bar: _Bar | None = None

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.advance()

    def __enter__(self: Bar) -> Bar:
        self._start = self._last_line = time.monotonic()
        if _console.is_terminal and logger.isEnabledFor(logging.INFO):
            self._bar = _Bar(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.fields[rate]}"),
                rich_progress.TimeRemainingColumn(),
                console=_console,
                transient=True,
            )
            self._task = self._bar.add_task(self._description, total=self._total, rate="")
            self._bar.start()
        return self

    def advance(self, units: int = 1) -> None:
        """Record that this many more units are done."""
        self._done += units
        now = time.monotonic()
        if self._bar is not None:
            self._bar.below = self.note(_console.width)
            self._bar.update(self._task, completed=self._done, rate=self._rate(now))
        elif now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            logger.info("%s: %s", self._description, self._line(now))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        now = time.monotonic()
        if self._bar is not None:
            self._bar.stop()
        if kind is None and now - self._start >= LINE_EVERY_SECONDS:
            taken = _clock(now - self._start)
            logger.info("%s: %d %s in %s, %s", self._description, self._done, self._unit, taken, self._rate(now))

    def note(self, width: int) -> str:
        """Text of a subclass below a live bar, at most `width` columns wide. Empty here."""
        return ""

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._start, 1e-9):.3g} {self._unit}/s"

    def _line(self, now: float) -> str:
        if self._total is None:
            return f"{self._done} {self._unit}, {self._rate(now)}"
        left = (self._total - self._done) * (now - self._start) / max(self._done, 1)
        return f"{self._done}/{self._total} {self._unit}, {self._rate(now)}, {_clock(left)} left"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def one_line_errors(main: Callable[P, int | None]) -> Callable[P, int]:
    """Make a command's main return its exit code: 0 (or its own), 2 after a user's mistake, 130 after Ctrl-C.

    A mistake is a UserError, a FloatingPointError (a loss that is not finite), or a path that is missing, forbidden or
    on a full disk. It is reported in one line on standard error. Any other exception is a bug and keeps its traceback.
    Both are also written to train.log.
    """

    @functools.wraps(main)
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except KeyboardInterrupt:
            return _report("interrupted", 130)
        except (UserError, FloatingPointError) as error:
            return _report(_message(error), 2)
        except OSError as error:
            if not _is_users(error):
                _write_to_file(f"stopped by {error!r}", with_traceback=True)
                raise
            return _report(_message(error), 2)
        except Exception as error:
            _write_to_file(f"stopped by {error!r}", with_traceback=True)
            raise

    return command


def _is_users(error: OSError) -> bool:
    kinds = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
    return isinstance(error, kinds) or error.errno in _USER_ERRNOS


def _message(error: Exception) -> str:
    """Describe an exception in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = str(error)
    if "Original Traceback" in text:
        # raised in a loader process: torch passes on its traceback, which ends in "module.Class: message"
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _report(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    _write_to_file(message)
    return code


def _write_to_file(message: str, *, with_traceback: bool = False) -> None:
    """Write to train.log only: the terminal shows the message or the traceback anyway."""
    trace = sys.exc_info() if with_traceback else None
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), trace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
