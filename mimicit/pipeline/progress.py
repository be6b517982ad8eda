"""How a build tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Receives the state of the running stage."""

    def update(self, stage: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` units of ``stage`` are finished (``None``: the total is not known yet)."""

    def note(self, message: str) -> None:
        """One line worth telling."""


class Silent:
    """Listens to nothing."""

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Ignore it."""

    def note(self, message: str) -> None:
        """Ignore it."""
