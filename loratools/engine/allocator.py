"""Memory that one job frees is there for the next, as far as glibc can be asked for it.

A factor of 16 by 2048 takes 256 kB in float64. glibc gives blocks of that size back to the system as they are
freed, and the system clears each page of the next one anew: a third of the time of `resize` went there.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Names of the two settings, from glibc's malloc.h (see mallopt(3))."""

_KEPT_BYTES = 64 * 2**20
"""Free memory at the end of an arena that is kept."""

_LARGE_BYTES = 4 * 2**20
"""From here on a block is had from the system, and given back at once."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Asks for it, for the rest of the process; nothing happens where the C library is not glibc.

    For work on many arrays of less than 4 MB; what is larger is given back as before.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
