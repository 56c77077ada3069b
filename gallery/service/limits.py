"""How much a client may ask for: calls per minute, bytes and pixels of an upload, and calls waiting for the model."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gallery.encoding.pictures import MAX_PIXELS

MAX_CLIENTS = 10_000


class Rate(NamedTuple):
    """`burst` calls at once, then `per_minute`."""

    burst: int
    per_minute: float


class Limits(NamedTuple):
    """Limits of the service, except for the lengths of queries and answers, which are in schemas.py."""

    upload_bytes: int = 10 * 2**20
    pixels: int = MAX_PIXELS  # of a picture, uploaded or indexed
    other_body_bytes: int = 64 * 2**10
    waiting_calls: int = 16  # for the model, which runs one call at a time
    decoders: int = 2  # frames that are decoded at once; others wait
    model_calls: Rate = Rate(burst=60, per_minute=120)
    sign_ins: Rate = Rate(burst=5, per_minute=5)
    files: Rate = Rate(burst=1000, per_minute=6000)  # thumbnails, the page itself


class RateLimiter:
    """One token bucket per client: it starts with `burst` tokens, a call takes one, and it refills over time."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = rate.burst
        self._per_second = rate.per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens left, and when

    def seconds_to_wait(self, client: str, *, take: bool = True) -> float:
        """Take a token of this client: 0 if there was one, else the time until there is one. take False: only look."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1
        taken = allowed and take
        self._buckets[client] = (tokens - taken, now)  # moved to the end: the client seen longest ago comes first
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._per_second
