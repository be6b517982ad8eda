"""What one medium may cost while it is decoded: memory and time, held by the kernel.

No decoder in C can be interrupted or asked how much it will allocate, and an MP4 of 3 kB can make ffmpeg write an
index of 4 GB. So the process that decodes limits itself: an allocation beyond the limit fails, which every decoder
reports; and a timer ends the process, which its parent counts as a reject of the medium. Cost: 20 microseconds.

The limit of CPU time grows with the pixels that a medium declares, at a rate that the slowest machine keeps: sound
media are not rejected anywhere, while a medium that declares little and costs much is.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions

TIMER_SIGNALS: Final = frozenset((signal.SIGALRM, signal.SIGPROF))
"""The signals that end a process that decodes for too long."""

_WALL_PER_CPU: Final = 10  # the second timer is for reads that never return; a busy machine must not reject a clip
_SECONDS_PER_PIXEL: Final = 2e-7  # VP8 and JPEG take a twentieth of it, on a core of 2020
_MOST_FOR_PIXELS_S: Final = 3600
_WANT_OF_MEMORY: Final = ("bad_alloc", "Cannot allocate memory", "Resource temporarily unavailable", "malloc of size")
_STATM: Final = "/proc/self/statm"
_STATM_BYTES: Final = 256
_STATM_DATA: Final = 5


_one_thread_at_a_time = threading.RLock()


def _begin_in_fork() -> None:
    """Replace the lock in a fork: the thread that held it does not exist there, and would never release it."""
    global _one_thread_at_a_time
    _one_thread_at_a_time = threading.RLock()


os.register_at_fork(after_in_child=_begin_in_fork)
_left_for_pixels: list[float] = []  # seconds that each open block may still get for its pixels


@contextmanager
def bounded(options: MediaOptions, *, cpu_seconds: float | None = None) -> Iterator[None]:
    """Let the block allocate ``options.max_memory_bytes`` more and take ``options.max_seconds`` of CPU time.

    The limit of wall-clock time is ten times that; `allow_pixels` extends both. With ``cpu_seconds``, that is the limit
    whatever the pixels: for callers who wait for an answer.

    Allocations beyond become `RejectedError` (``too_much_memory``). A block that takes longer ends *this process*, by
    one of `TIMER_SIGNALS`: run it in a worker, and in its main thread. If the system does not report what a process
    uses (all but Linux), only the time is bounded.
    """
    handlers = {number: handler for number in TIMER_SIGNALS if (handler := signal.getsignal(number)) != signal.SIG_DFL}
    for number in handlers:
        signal.signal(number, signal.SIG_DFL)
    limit_s = options.max_seconds if cpu_seconds is None else cpu_seconds
    cpu = signal.setitimer(signal.ITIMER_PROF, limit_s)
    wall = signal.setitimer(signal.ITIMER_REAL, _WALL_PER_CPU * limit_s)
    _left_for_pixels.append(_MOST_FOR_PIXELS_S if cpu_seconds is None else 0)
    try:
        with memory_limit(options.max_memory_bytes):
            yield
    except MemoryError:
        raise out_of_memory(options) from None
    finally:
        _left_for_pixels.pop()
        signal.setitimer(signal.ITIMER_PROF, *cpu)
        signal.setitimer(signal.ITIMER_REAL, *wall)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Let the block allocate ``more_bytes`` on top of what the process has; more than that raises `MemoryError`.

    The limit is one of the process, so threads run such blocks one after the other: if two overlapped, the last to end
    would restore the limit of the first. Nothing is limited if the system does not report what a process uses (all but
    Linux).
    """
    # RLIMIT_DATA counts what is private and writable. RLIMIT_AS would also count libraries, stacks of threads and
    # mapped input (600 MB of address space where 40 MB are used), and RLIMIT_RSS does nothing on Linux.
    with _one_thread_at_a_time:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        used = data_bytes()
        try:
            if used is not None:
                resource.setrlimit(resource.RLIMIT_DATA, _tightened(before, used + more_bytes))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def allow_pixels(count: int) -> None:
    """Extend the block of `bounded`, if there is one, by the time that decoding ``count`` pixels may take.

    Count what the header declares, or better, for a clip, what its packets declare.
    """
    if not _left_for_pixels:
        return
    extra_s = min(count * _SECONDS_PER_PIXEL, _left_for_pixels[-1])
    _left_for_pixels[-1] -= extra_s
    for timer, times in ((signal.ITIMER_PROF, 1), (signal.ITIMER_REAL, _WALL_PER_CPU)):
        left_s, _ = signal.getitimer(timer)
        signal.setitimer(timer, left_s + times * extra_s)


def data_bytes() -> int | None:
    """Bytes that count against RLIMIT_DATA now; None if the system does not say."""
    try:
        descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(descriptor, _STATM_BYTES).split()[_STATM_DATA]) * resource.getpagesize()
    finally:
        os.close(descriptor)


@contextmanager
def want_of_memory() -> Iterator[None]:
    """Turn a library's own error for a failed allocation into `MemoryError`.

    Arrow's readers report what happened further down as an error of the file: a page's header that could not be read
    because of ``std::bad_alloc``, or a thread without room for its stack.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if any(words in str(error) for words in _WANT_OF_MEMORY):
            raise MemoryError(str(error)) from None
        raise


def out_of_memory(options: MediaOptions) -> RejectedError:
    """The reject of a medium whose decoding asked for more memory than there is."""
    limit = f"{options.max_memory_bytes / 2**20:,.0f} MiB"
    return RejectedError("too_much_memory", f"decoding asks for more memory than one medium may take ({limit})")


def _tightened(limits: tuple[int, int], wanted: int) -> tuple[int, int]:
    """The pair (soft, hard) with the soft limit at ``wanted``, or lower if it was lower."""
    known = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    return min([wanted, *known]), limits[1]
