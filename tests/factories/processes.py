"""Processes of this machine, as /proc tells them, and how to end some of them while something runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def descendants(pid: int) -> dict[int, int]:
    """The processes that ``pid`` has started, those that they have started, and so on: process -> parent."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: dict[int, int] = {}
    todo = [pid]
    while todo:
        parent = todo.pop()
        for child in children.get(parent, []):
            found[child] = parent
            todo.append(child)
    return found


def ray_workers() -> list[int]:
    """The processes of our Ray cluster that run a task of a stage right now."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ") == b"ray::_call":
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


@contextmanager
def killing(find: Callable[[], list[int]], times: int) -> Iterator[list[int]]:
    """While the block runs, kill the first of the processes that ``find`` names, so many times; the list names them."""
    killed: list[int] = []
    done = threading.Event()

    def hunt() -> None:
        while len(killed) < times and not done.wait(0.005):
            if victims := [pid for pid in find() if pid not in killed]:
                os.kill(victims[0], signal.SIGKILL)
                killed.append(victims[0])
                done.wait(0.3)

    thread = threading.Thread(target=hunt, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()
