"""Tasks for engines: module-level functions that a worker process can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from threadpoolctl import threadpool_info


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"{number} is refused")


def die_once(marker: Path) -> str:
    """Kill the own process the first time, and live the second."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return marker.name
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def die_if_odd(number: int) -> int:
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def blas_threads(_: None) -> list[int]:
    """How many threads each library for arithmetic of this process may take."""
    return [int(library["num_threads"]) for library in threadpool_info()]
