"""Working memory that is used again for every picture.

A picture takes a few megabytes for a millisecond. Fresh from the allocator, they cost more than the arithmetic on them:
glibc gives the top of the heap back each time, and the kernel clears the pages anew (2.5 ms for 640x480).
"""

from __future__ import annotations

import math
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["scratch"]

_MOST_KEPT_BYTES: Final = 64 << 20


class _Buffers(threading.local):
    """The buffers of one thread, by purpose."""

    def __init__(self) -> None:
        self.kept: dict[str, NDArray[np.uint8]] = {}


_BUFFERS: Final = _Buffers()


def scratch(purpose: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array with arbitrary content, valid until this thread asks for the same ``purpose`` again."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _MOST_KEPT_BYTES:
        return np.empty(shape, dtype)
    kept = _BUFFERS.kept.get(purpose)
    if kept is None or kept.size < size:
        kept = _BUFFERS.kept[purpose] = np.empty(size, np.uint8)
    return kept[:size].view(dtype).reshape(shape)
