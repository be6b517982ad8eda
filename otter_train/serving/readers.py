"""Processes that read requests: JSON, limits, base64, pictures. No request is held up by what is in another.

No parser or decoder in C can be interrupted, so what strangers send is read in processes that can be ended: by the
limits that each sets itself (see `mimicit.media.bounds`), when the client leaves, and with the server. The headers of
its pictures show what a request costs, long before a pixel is decoded. Cheap requests are read immediately; the others
wait for processes of their own, which have a lower priority. Requests of some kilobytes have processes that no larger
body is ever given to. So no number of costly requests keeps a plain question waiting.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final

from mimicit.errors import RejectedError
from mimicit.media import MediaOptions
from mimicit.media.bounds import TIMER_SIGNALS, bounded
from mimicit.worker import end_with_parent
from otter_train.serving.limits import ApiError, Limits, Turns
from otter_train.serving.protocol import CostlyError, Question, parse_question

_PROCESSES: Final = 2  # of each lane
_MIB: Final = 1024**2
_BYTES_PER_PIXEL: Final = 16  # RGBA, and some copies of it
_SMALL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """What one request may cost here: ``pixels`` to decode in all (None: whatever the limits allow), CPU, memory."""

    pixels: int | None
    cpu_seconds: float
    memory_bytes: int
    niceness: int


class Readers:
    """Reads requests within ``limits``; use as a context manager, which starts and ends the processes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        small = _Lane(pixels=1_000_000, cpu_seconds=1.0, memory_bytes=256 * _MIB, niceness=0)
        quick = _Lane(pixels=8_000_000, cpu_seconds=1.0, memory_bytes=256 * _MIB, niceness=5)
        memory_bytes = 256 * _MIB + _BYTES_PER_PIXEL * limits.pixels
        costly = _Lane(pixels=None, cpu_seconds=limits.cpu_seconds, memory_bytes=memory_bytes, niceness=10)
        lanes = [[_Reader(limits, lane) for _ in range(_PROCESSES)] for lane in (small, quick, costly)]
        self._processes: list[_Reader] = [process for lane in lanes for process in lane]
        self._small, self._quick, self._costly = map(Turns, lanes)
        self._most_costly = max(1, min(16, limits.queue // 2))
        self._threads = ThreadPoolExecutor(len(self._processes), thread_name_prefix="otter-reader")

    def __enter__(self) -> Readers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes:
            process.close()
        self._threads.shutdown(wait=True)  # one of them may have started another process meanwhile
        for process in self._processes:
            process.kill()

    async def read(self, body: Sequence[bytes], model: str) -> Question:
        """The question in the pieces of ``body``, asked of ``model``.

        `ApiError` as in `parse_question`, and if reading takes too much time or memory (400), or too many costly
        requests wait (429). Cancelling it ends the work.
        """
        for lane in (self._small, self._quick)[_size(body) > _SMALL_BYTES :]:
            with suppress(CostlyError, _EndedError):
                return await self._take_turn(lane, body, model)
        if self._costly.waiting >= self._most_costly:
            raise ApiError(429, "rate_limit_exceeded", "too many large pictures wait; try again later")
        for _ in range(_PROCESSES + 1):  # all of the lane may have been killed while nobody asked
            try:
                return await self._take_turn(self._costly, body, model)
            except _EndedError as ended:
                if ended.is_timeout:
                    took = f"reading the request took more than {self._limits.cpu_seconds:g} s; send smaller pictures"
                    raise ApiError(400, "request_too_costly", took) from None
        raise ApiError(500, "internal_error", "a decoder crashed on this request, again and again")

    async def _take_turn(self, lane: Turns[_Reader], body: Sequence[bytes], model: str) -> Question:
        async with lane.turn(_size(body)) as process:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, process.ask, body, model)
            try:
                return await asyncio.shield(asked)
            except asyncio.CancelledError:
                if lane is self._costly:  # a quick one ends sooner than a new process would start
                    process.kill()
                await asyncio.gather(asked, return_exceptions=True)
                raise


def _size(body: Sequence[bytes]) -> int:
    return sum(map(len, body))


class _EndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(exitcode)
        self.is_timeout = exitcode is not None and -exitcode in TIMER_SIGNALS


class _Reader:
    """A process that reads one request at a time; another takes its place when it is ended."""

    def __init__(self, limits: Limits, lane: _Lane) -> None:
        self._limits = limits
        self._lane = lane
        self._killed = self._closed = False

    def start(self) -> None:
        # Forked from a clean server process: no model, threads or locks of this one are copied.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "otter_train.config.command_line"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._limits, self._lane), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, body: Sequence[bytes], model: str) -> Question:
        """See `Readers.read`; `_EndedError` if the process ended, `CostlyError` if the lane is the wrong one."""
        if self._killed or not self._process.is_alive():  # after its last answer
            self._restart()
        if self._killed:
            raise _EndedError(None)
        try:
            self._pipe.send((model, len(body)))
            for piece in body:
                self._pipe.send_bytes(piece)
            answer: Question | ApiError | CostlyError = self._pipe.recv()
        except (EOFError, OSError):
            raise _EndedError(self._restart()) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process, whatever it does, together with any question that it is reading."""
        self._killed = True
        if self._process.is_alive():
            self._process.kill()

    def _restart(self) -> int | None:
        """Start another process when this one has ended; returns its exit code."""
        self._process.join()
        self._pipe.close()
        self._killed = False
        exitcode = self._process.exitcode
        if not self._closed:
            self.start()
        return exitcode

    def close(self) -> None:
        """End the process, and start no other."""
        self._closed = True
        self.kill()


def _work(pipe: Connection, limits: Limits, lane: _Lane) -> None:
    """Answer until the server goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    os.nice(lane.niceness)
    end_with_parent()  # also while a decoder holds the interpreter
    while True:
        try:
            model, pieces = pipe.recv()
            body = b"".join([pipe.recv_bytes() for _ in range(pieces)])
        except EOFError:
            return
        pipe.send(_read(body, model, limits, lane))


def _read(body: bytes, model: str, limits: Limits, lane: _Lane) -> Question | ApiError | CostlyError:
    options = MediaOptions(max_pixels=limits.pixels, max_memory_bytes=lane.memory_bytes)
    try:
        with bounded(options, cpu_seconds=lane.cpu_seconds):
            return parse_question(body, model=model, limits=limits, most_pixels=lane.pixels)
    except (ApiError, CostlyError) as error:
        return error
    except RejectedError as error:  # the memory of the whole request
        return CostlyError() if lane.pixels is not None else ApiError(400, "request_too_costly", str(error))
