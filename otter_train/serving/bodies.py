"""The bodies of requests: read within a deadline, and within the memory that all of them together may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import ClientDisconnect, Request

from otter_train.serving.errors import ApiError
from otter_train.serving.limits import Limits

__all__ = ["Bodies"]

_LARGEST_AT_ONCE: Final = 8
"""As many bodies of the largest size fit into memory at the same time; with their number it bounds the memory."""

_SMALL_BYTES: Final = 64 * 1024
"""What a body has for free, so that a plain question is never refused; connections bound the number of these."""


class Bodies:
    """All the bodies that are in memory.

    Where a new one needs more than there is, the one that has been coming for the longest is given up: who sends a
    request at once is not kept out by those who send theirs byte by byte.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = _LARGEST_AT_ONCE * limits.body_bytes
        self._coming: dict[asyncio.Timeout, int] = {}  # bytes of each, the oldest first
        self._held = 0  # by those that are coming, and those that are here

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[list[bytes]]:
        """The body of ``request``, in the pieces in which it came, which counts until the block ends.

        `ApiError` where it is too large (413), too slow (408), ends early (400), or there is no room for it (429).
        """
        body = await self._read(request)
        held = _counted(sum(map(len, body)))
        self._held += held
        try:
            yield body
        finally:
            self._held -= held

    async def _read(self, request: Request) -> list[bytes]:
        most, seconds = self._limits.body_bytes, self._limits.body_seconds
        too_large = ApiError(413, "request_too_large", f"a request may have {most:,} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > most:
            raise too_large
        body: list[bytes] = []  # putting 20 MiB together takes longer than a question may wait
        size = 0
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                async for chunk in request.stream():
                    body.append(chunk)
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    self._make_room(deadline, _counted(size))
        except TimeoutError:
            raise ApiError(408, "request_timeout", f"the body came too slowly; there are {seconds:g} s") from None
        except ClientDisconnect:
            raise ApiError(400, "client_disconnected", "the body ended early") from None
        finally:
            self._forget(deadline)
        return body

    def _make_room(self, deadline: asyncio.Timeout, held: int) -> None:
        if not held:
            return
        self._held += held - self._coming.get(deadline, 0)
        self._coming[deadline] = held
        while self._held > self._most:
            oldest = next(iter(self._coming))
            self._forget(oldest)
            if oldest is deadline:
                raise ApiError(429, "rate_limit_exceeded", "too many large requests are open; try again in a second")
            if not oldest.expired():
                oldest.reschedule(0)

    def _forget(self, deadline: asyncio.Timeout) -> None:
        self._held -= self._coming.pop(deadline, 0)


def _counted(size: int) -> int:
    return max(0, size - _SMALL_BYTES)
