"""Ctrl-C inside libraries that turn every exception into one of their own, and Ctrl-C pressed twice.

`KeyboardInterrupt` is raised in whatever Python code is running. If DuckDB or pyarrow called that code, they raise
`InvalidInputException` instead, which looks like a fault in the data. Only the signal handler knows the difference.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for whatever exception Ctrl-C became in the block (in the main thread)."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    has_come = False

    def note(number: int, frame: FrameType | None) -> Any:
        nonlocal has_come
        has_come = True
        return usual(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if has_come:
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, usual)


@contextmanager
def ending_at_the_second() -> Iterator[None]:
    """Let a second Ctrl-C kill the process: the cleanup that the first one began may hang."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
