"""How long work reports its progress, and who listens: a bar on a terminal, with rate and time left, or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """Receives the state of the running stage."""

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        """``done`` of ``total`` units of ``stage`` are finished (``None``: the total is not known yet).

        ``detail`` is more about it, in words.
        """

    def note(self, message: str) -> None:
        """Report a message of one line."""


class Silent:
    """Ignores all reports."""

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        """Ignore it."""

    def note(self, message: str) -> None:
        """Ignore it."""


@contextmanager
def stage(name: str, progress: Progress) -> Iterator[None]:
    """Report the block as a stage of one unit."""
    progress.update(name, 0, 1)
    yield
    progress.update(name, 1, 1)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """A display on standard error: a bar if that is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield _Lines(sys.stderr)
        return
    with _Bar() as bar:
        yield bar


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._started = 0.0
        self._last = 0.0

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._last = stage, now, now
        if total == done or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            rate = done / max(now - self._started, 1e-3)
            of = "" if total is None else f"/{total:,}"
            left = f", {_clock((total - done) / rate)} left" if total and 0 < done < total else ""
            more = f", {detail}" if detail else ""
            self._stream.write(f"{stage}: {done:,}{of} ({rate:,.0f}/s{left}){more}\n")
            self._stream.flush()

    def note(self, message: str) -> None:
        self._stream.write(f"{message}\n")
        self._stream.flush()


class _Bar:
    def __init__(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TextColumn("{task.fields[rate]}", markup=False),
            rich_progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._started = 0.0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage != self._stage or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._stage, self._started = stage, time.monotonic()
            self._task = self._progress.add_task(stage, total=total, rate="")
        rate = done / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(self._task, completed=done, total=total, rate=f"{rate:,.0f}/s {detail}".rstrip())

    def note(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"
