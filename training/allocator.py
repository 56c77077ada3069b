"""How the C library treats freed memory."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt(3) in <malloc.h> of glibc
_LARGEST = 2**31 - 1
_LARGEST_OF_OLD = 32 * 2**20  # glibc before 2.35 refuses more as _MMAP_THRESHOLD


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next step instead of handing them back to the kernel; elsewhere nothing.

    Activations are large blocks, of the same sizes in every step. By default each is mapped afresh, and its pages are
    cleared and faulted in again one by one.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return
    # Either call ends glibc's own adjusting: a trim threshold alone would leave every block above 128 KiB to be mapped.
    if mallopt(_MMAP_THRESHOLD, _LARGEST) or mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD):
        mallopt(_TRIM_THRESHOLD, _LARGEST)
