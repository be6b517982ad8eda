"""The bodies of requests: read within a deadline, and within the memory that all of them together may take.

Scarce workers are taken in turns (`Turns`): the smallest task goes first, so small requests never wait for large ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from otter_train.serving.fields import ApiError, Limits

_LARGEST_AT_ONCE: Final = 8
"""How many bodies of the largest size may be in memory at the same time, which bounds the memory of all."""

_SMALL_BYTES: Final = 64 * 1024
"""Bytes of a body that do not count, so that a plain question is never refused; connections bound their number."""
Worker = TypeVar("Worker")


class Bodies:
    """All the bodies that are in memory.

    If a new one needs more than there is, the body that has been arriving for the longest is given up: clients that
    send a request in one go are not kept out by those that send theirs byte by byte.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = _LARGEST_AT_ONCE * limits.body_bytes
        self._coming: dict[asyncio.Timeout, int] = {}  # bytes of each, the oldest first
        self._held = 0  # by those that are arriving, and those that are complete

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[list[bytes]]:
        """The body of ``request``, in the pieces in which it came, which counts until the block ends.

        `ApiError` if it is too large (413), too slow (408), ends early (400), or there is no room for it (429).
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
        body: list[bytes] = []  # joining 20 MiB takes longer than a question may wait
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


class Turns(Generic[Worker]):
    """Hands out ``workers`` of one kind, each to one task at a time."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._idle = list(workers)
        self._waiting: list[tuple[int, int, asyncio.Future[Worker]]] = []  # a heap
        self._numbers = itertools.count()

    @property
    def waiting(self) -> int:
        """The tasks that wait for a worker."""
        return sum(not future.done() for *_, future in self._waiting)

    @asynccontextmanager
    async def turn(self, work: int) -> AsyncIterator[Worker]:
        """A worker, when one is free and nobody waits with less ``work``."""
        worker = self._idle.pop() if self._idle else await self._wait(work)
        try:
            yield worker
        finally:
            self._give(worker)

    async def _wait(self, work: int) -> Worker:
        future: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (work, next(self._numbers), future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was handed out in the same moment
                self._give(future.result())
            raise

    def _give(self, worker: Worker) -> None:
        while self._waiting:
            *_, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(worker)
                return
        self._idle.append(worker)
