"""Taking turns at something scarce: who asks for the least goes first, so small requests never wait for large ones."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

__all__ = ["Turns"]

Worker = TypeVar("Worker")


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
