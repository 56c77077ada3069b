"""How much one client may ask for: calls per minute, bytes and pixels of an upload, calls that wait for the model."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gallery.pictures import MAX_PIXELS

MAX_CLIENTS = 10_000


class Rate(NamedTuple):
    """So many calls at once, and then so many per minute."""

    burst: int
    per_minute: float


class Limits(NamedTuple):
    """What the service refuses to exceed; the lengths of a query and of an answer are in service_models."""

    upload_bytes: int = 10 * 2**20
    pixels: int = MAX_PIXELS  # of a picture, uploaded or indexed
    other_body_bytes: int = 64 * 2**10
    waiting_calls: int = 16  # for the model, which answers one call at a time
    model_calls: Rate = Rate(burst=60, per_minute=120)
    sign_ins: Rate = Rate(burst=5, per_minute=5)
    files: Rate = Rate(burst=1000, per_minute=6000)  # thumbnails, the page itself


class RateLimiter:
    """One token bucket per client: it starts full with `burst` tokens, a call takes one, time gives them back."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = rate.burst
        self._per_second = rate.per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client: tokens left, when that was

    def seconds_to_wait(self, client: str, *, take: bool = True) -> float:
        """Take a token of this client: 0 if there was one, else how long until there is one. take False: only look."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        taken = allowed and take
        self._buckets[client] = (tokens - taken, now)  # at the end: the client seen longest ago comes first
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second
