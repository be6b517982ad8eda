"""What a worker process sets up before it handles one picture or record after another.

Memory: pixels are large, so glibc hands their memory back to the system after each picture and asks for it again for
the next one. The system then clears it page by page: 1,000 page faults for a picture of 1500 x 1000 pixels, a quarter
of the time that decoding it, shrinking it and encoding it takes.

Garbage: what is made for a record is freed with it, so the collector, which looks for cycles, finds nothing; at its
usual pace it costs a tenth of the time.

Threads: there are as many workers as cores, so the threads that BLAS starts in each would only wait for each other.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

from threadpoolctl import threadpool_limits

from mimicit.errors import UsageError

_PR_SET_PDEATHSIG: Final = 1
_TRIM_THRESHOLD: Final = -1  # the names of mallopt(3), as in malloc.h
_MMAP_THRESHOLD: Final = -3
_LEAST_ADDRESSES: Final = 2 << 30
_LONGEST_TEMPORARY: Final = 70  # bytes; "/pymp-xxxxxxxx/listener-xxxxxxxx" follows
_SHORT: Final = ("/tmp", "/var/tmp", "/dev/shm")
_OBJECTS_PER_COLLECTION: Final = 100_000
_KEPT_BYTES: Final = 32 * 1024**2  # the most that glibc accepts for _MMAP_THRESHOLD


def check_processes() -> None:
    """Make sure that this process can start others; call it before the first.

    They are reached by sockets in the folder for temporary files, and a socket's path has 107 bytes at most; if that
    folder's path is too long, the sockets lie elsewhere. `UsageError` if a limit of addresses (``ulimit -v``) leaves no
    room.
    """
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < _LEAST_ADDRESSES:
        raise UsageError(
            f"ulimit -v leaves each process {addresses >> 20:,} MiB of addresses, and libraries alone take more than "
            f"{_LEAST_ADDRESSES >> 20:,}; raise it, and limit memory itself instead (a cgroup, systemd-run, Slurm)"
        )
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_TEMPORARY:
        usual = tempfile.tempdir
        tempfile.tempdir = next((place for place in _SHORT if os.access(place, os.W_OK | os.X_OK)), usual)
        try:
            multiprocessing.util.get_temp_dir()  # kept from now on, for this process and those that it starts
        finally:
            tempfile.tempdir = usual


def begin_worker() -> None:
    """Keep up to 32 MiB of freed memory (glibc only), look for cycles seldom, and let BLAS have one thread."""
    import numpy  # noqa: F401  # brings BLAS, whose threads are limited below only where it is there

    collect_seldom()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
    threadpool_limits(limits=1)


def collect_seldom() -> None:
    """Look for garbage in cycles seldom, and never among what this process has imported so far."""
    if not gc.get_freeze_count():  # a later call would also freeze garbage, and so keep it
        gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])


def end_with_parent() -> None:
    """Have this process killed when the process that started it ends, whatever it is doing (Linux only)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def apart_from_main() -> Iterator[None]:
    """Start processes that do not run the user's script again, as they would if it has no ``__main__`` guard.

    No worker needs what the script defines. Nor does a worker see Ctrl-C, even while it starts: its parent ends it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    multiprocessing.resource_tracker.ensure_running()  # before the signal is blocked: its start unblocks it
    usual = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # inherited by the processes
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, usual)
        sys.modules["__main__"] = main
