"""Memory for a process that decodes one picture after another.

Pixels are large, so glibc hands their memory back to the system after each picture and asks for it again for the next
one. The system then clears it page by page: 1,000 page faults for a picture of 1500 x 1000 pixels, a quarter of the
time that decoding it, shrinking it and encoding it takes.
"""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD: Final = -1  # the names of mallopt(3), as in malloc.h
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 * 1024**2  # the most that glibc takes for the second


def keep_freed_memory() -> None:
    """Let this process keep up to 32 MiB of what it frees; for workers, whose memory is nobody else's affair.

    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
