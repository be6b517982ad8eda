"""What the endpoint accepts; everything a stranger can send is bounded by one of these."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``body_bytes`` of a request, which must arrive within ``body_seconds``; ``pictures`` in it, ``pixels`` in each.

    ``messages`` in a conversation, with ``characters`` in all. Reading a request may take ``cpu_seconds`` and, with
    the time it waits for its turn, ``wait_seconds``. ``tokens`` of an answer (also the number where the request names
    none), ``context`` of prompt and answer together. ``queue`` requests wait or are answered at the same time, at
    most ``batch`` of them in one forward pass.
    """

    body_bytes: int = 20 * 1024**2
    body_seconds: float = 30.0
    pictures: int = 16
    pixels: int = 25_000_000
    messages: int = 256
    characters: int = 65_536
    cpu_seconds: float = 5.0
    wait_seconds: float = 30.0
    tokens: int = 256
    context: int = 2048
    queue: int = 256
    batch: int = 8
