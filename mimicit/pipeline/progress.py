"""How a build reports its progress, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the state of the running stage."""

    def update(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of ``stage`` are finished (``None``: the total is not known yet)."""

    def note(self, message: str) -> None:
        """Report a message of one line."""


class Silent:
    """Ignores all reports."""

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Ignore it."""

    def note(self, message: str) -> None:
        """Ignore it."""


@contextmanager
def stage(name: str, progress: Progress) -> Iterator[None]:
    """Report the block as a stage of one unit."""
    progress.update(name, 0, 1)
    yield
    progress.update(name, 1, 1)
