"""A progress bar on terminals, plain log lines elsewhere: how much is done, items per second, time left."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far a job of `total` items is. Yields advance(count), to be called after each `count` items.

    Without a terminal a line is logged every SECONDS_BETWEEN_LINES seconds and one at the end.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(description, total, unit) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:,.0f} " + unit + "/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, speed=0.0)

        def advance(count: int) -> None:
            bar.update(task, advance=count, speed=bar.tasks[task].speed or 0.0)

        yield advance


@contextmanager
def _lines(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done < total:
            last = now
            speed = done / (now - start)
            logger.info(
                "%s: %d of %d, %.0f %s/s, %.0f s left", description, done, total, speed, unit, (total - done) / speed
            )

    yield advance
    seconds = time.monotonic() - start
    logger.info("%s: %d %s in %.1f s, %.0f/s", description, done, unit, seconds, done / max(seconds, 1e-9))
