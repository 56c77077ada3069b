"""Requests to stop (SIGTERM, SIGINT): a run finishes its step and saves, instead of dying in the middle of one."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from utils.distributed import any_process

SIGNALS = (signal.SIGTERM, signal.SIGINT)
A_SIGNAL = "a signal asks; --resume goes on from here"


class StopAsked(Exception):
    """The run has to end here. The message says who asked for it."""


class StopSignals:
    """Record stop signals instead of dying from them.

        with StopSignals() as signals:
            while not signals.agreed():
                step()

    A second SIGINT raises KeyboardInterrupt, because whoever presses Ctrl-C twice does not want to wait for the step.
    Outside the main thread this does nothing, since Python handles signals only there.
    """

    def __init__(self) -> None:
        self.received = False
        self._agreed = False
        self._raise_at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any process was asked to stop. Every process must call it once per step; all get the same answer."""
        self._agreed = self._agreed or any_process(self.received)
        return self._agreed

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises StopAsked at once. Only for runs of one process: others would wait for this one."""
        self._raise_at_once = True
        try:
            if self.received:
                raise StopAsked(A_SIGNAL)
            yield
        finally:
            self._raise_at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True  # no log line here: the signal may have interrupted one being written
        if self._raise_at_once:
            raise StopAsked(A_SIGNAL)


@contextmanager
def hidden_from_children() -> Iterator[None]:
    """Hide the stop signals, which a terminal or a batch system sends to all processes, from processes started inside.

    Loader processes have to live until the step is finished. With `heed_parent` they end when their parent asks.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def heed_parent() -> None:
    """End this process, started within `hidden_from_children`, on a SIGTERM from its parent and from nobody else.

    A parent that ends with an error terminates its loader processes and waits for them. It would wait forever for a
    process that ignores it.
    """
    if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()) and hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_wait_for_parent, args=(os.getppid(),), daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
