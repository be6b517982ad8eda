"""What a process settles first that works beside others, on one picture after another.

Memory: pixels are large, so glibc hands their memory back to the system after each picture and asks for it again for
the next one. The system then clears it page by page: 1,000 page faults for a picture of 1500 x 1000 pixels, a quarter
of the time that decoding it, shrinking it and encoding it takes.

Threads: there are as many workers as cores, so the threads that BLAS would start in each only wait for each other.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from threadpoolctl import threadpool_limits

__all__ = ["apart_from_main", "begin_worker"]

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


@contextmanager
def apart_from_main() -> Iterator[None]:
    """Start processes that do not run the user's script again, as they would where it has no ``__main__`` guard.

    No worker needs what the script defines.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
