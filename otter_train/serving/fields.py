"""What a request may hold and cost: its fields, their limits and errors, and the memory that all bodies together may
take.

Everything a stranger can send is bounded by one of `Limits`. `ApiError` (400) names the field that is wrong, in the
JSON form that OpenAI's clients read. Bodies are read within a deadline. Scarce workers are taken in turns (`Turns`):
the smallest task goes first, so small requests never wait for large ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from starlette.requests import ClientDisconnect, Request

from mimicit.options import check, option

_MIB: Final = 1 << 20

_LARGEST_AT_ONCE: Final = 8
"""How many bodies of the largest size may be in memory at the same time, which bounds the memory of all."""

_SMALL_BYTES: Final = 64 * 1024
"""Bytes of a body that do not count, so that a plain question is never refused; connections bound their number."""
Worker = TypeVar("Worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What users cannot set: the body must arrive within ``body_seconds``; a conversation has ``messages`` at most;
    reading a request may take ``cpu_seconds`` and, with the time it waits for its turn, ``wait_seconds``.

    ``tokens`` is also what a request gets that names no number.
    """

    body_bytes: int = option(20 * _MIB, "Largest request, in MiB.", least=1, key="max_body_mb", unit=_MIB)
    body_seconds: float = 30.0
    pictures: int = option(16, "Pictures in one request, at most.", least=1, key="max_pictures")
    pixels: int = option(25_000_000, "Largest picture, in pixels.", least=1, key="max_pixels")
    messages: int = 256
    characters: int = option(65_536, "Characters in one request.", least=1, key="max_characters")
    cpu_seconds: float = 5.0
    wait_seconds: float = 30.0
    tokens: int = option(256, "Longest answer, in tokens.", least=1, key="max_new_tokens")
    context: int = option(2048, "Longest prompt and answer together, in tokens.", least=1)
    queue: int = option(256, "Open requests, at most; more get a 429.", least=1)
    batch: int = option(8, "Questions answered at once, at most.", least=1, key="batch_size")

    def __post_init__(self) -> None:
        check(self)


class ApiError(Exception):
    """A request that is answered with HTTP ``status`` and an error object.

    ``code`` is one of OpenAI's if one fits; ``param`` names the field of the request at fault.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def __reduce__(self) -> tuple[Any, ...]:
        return _api_error, (self.status, self.code, self.message, self.param)  # crosses process borders whole


def as_object(value: Any, place: str) -> Mapping[str, Any]:
    """``value`` if it is a JSON object; `ApiError` (400) if not."""
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_type", f"{place}: an object is expected", param=place)
    return value


def number(request: Mapping[str, Any], name: str, *, least: float, most: float, whole: bool = False) -> float | None:
    """The number called ``name``, None if it is absent or null; an int if it must be ``whole``."""
    value = request.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ApiError(400, "invalid_type", f"{name}: a {'whole ' if whole else ''}number is expected", param=name)
    if not least <= value <= most:
        raise ApiError(400, "invalid_value", f"{name}: must be between {least} and {most}", param=name)
    return value


def flag(value: Mapping[str, Any], name: str) -> bool:
    """The truth value called ``name``, False if it is absent or null."""
    found = value.get(name)
    if found is not None and not isinstance(found, bool):
        raise ApiError(400, "invalid_type", f"{name}: true or false is expected", param=name)
    return bool(found)


def _api_error(status: int, code: str, message: str, param: str | None) -> ApiError:
    return ApiError(status, code, message, param=param)


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
