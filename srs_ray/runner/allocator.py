"""The C library's allocator in a process that does points for hours."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_ON_THE_HEAP = 32 * 2**20  # the most that glibc takes
_MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> None:
    """Has freed memory stay with the process, for the next tensor of that size.

    By default glibc gives large blocks back to the system at once, and each new one is mapped and cleared again, page
    by page. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST_ON_THE_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
