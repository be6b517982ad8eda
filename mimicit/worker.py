"""What a process settles first that works beside others, on one picture after another.

Memory: pixels are large, so glibc hands their memory back to the system after each picture and asks for it again for
the next one. The system then clears it page by page: 1,000 page faults for a picture of 1500 x 1000 pixels, a quarter
of the time that decoding it, shrinking it and encoding it takes.

Threads: there are as many workers as cores, so the threads that BLAS would start in each only wait for each other.
"""

from __future__ import annotations

import ctypes
from typing import Final

from threadpoolctl import threadpool_limits

__all__ = ["begin_worker"]

_TRIM_THRESHOLD: Final = -1  # the names of mallopt(3), as in malloc.h
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 * 1024**2  # the most that glibc takes for the second


def begin_worker() -> None:
    """Keep up to 32 MiB of freed memory (glibc only), and let BLAS and OpenMP have one thread each."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    threadpool_limits(limits=1)
