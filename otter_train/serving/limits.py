"""What a request may hold and cost: its fields, their limits and errors, and whose turn it is.

Everything a stranger can send is bounded by one of `Limits`. `ApiError` (400) names the field that is wrong, in the
JSON form that OpenAI's clients read. Scarce workers are taken in turns (`Turns`): the smallest task goes first, so
small requests never wait for large ones.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from mimicit.options import check, option

_MIB: Final = 1 << 20

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
