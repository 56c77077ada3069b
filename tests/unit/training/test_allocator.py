"""What the C library is asked for, and what where it refuses."""

import ctypes
from types import SimpleNamespace

import pytest

from training import allocator
from training.allocator import keep_freed_memory

TRIM, MMAP, MIB = -1, -3, 2**20


@pytest.mark.parametrize(
    ("largest", "taken"),
    [
        (2**31 - 1, {MMAP: 2**31 - 1, TRIM: 2**31 - 1}),
        (32 * MIB, {MMAP: 32 * MIB, TRIM: 2**31 - 1}),  # glibc before 2.35
        (0, {}),
    ],
)
def test_the_largest_threshold_that_is_accepted(monkeypatch, largest, taken):
    set_to = {}

    def mallopt(name, value):
        if name == MMAP and value > largest:
            return 0
        set_to[name] = value
        return 1

    monkeypatch.setattr(allocator, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory()
    assert set_to == taken
