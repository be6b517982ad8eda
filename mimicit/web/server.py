"""uvicorn, with the limits that it lacks for clients that are slow, many, or gone.

By itself uvicorn waits forever for the rest of a half-sent request, keeps a connection whose client never reads, does
not see a client leave that has sent a second request ahead, and takes any number of connections until the process has
no file descriptor left. Here each of these ends: by a deadline, or, if there are more connections than allowed, by
dropping the connection that has kept us waiting longest. So a client that sends its request immediately is always
served.

Each connection waits until its first request is there (`Arrival`): nothing is built for those that never send one. A
protocol of uvicorn and the task of an application cost a hundred times what a few bytes in a buffer do. Hundreds of
strangers who send half a request each, byte by byte, and connect again when they are dropped, would keep the event
loop busy with nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import resource
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_BODY_BYTES: Final = 64 * 1024
"""At most this much of a body is gathered here; the application limits larger ones."""

_HEAD_BYTES: Final = 16 * 1024
_BODY_S: Final = 3.0  # for a small body; then the application sets its own deadline
_END_OF_HEAD: Final = re.compile(rb"\n\r?\n")
_LENGTH: Final = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\ntransfer-encoding:", re.IGNORECASE)
_EXPECTS: Final = re.compile(rb"\nexpect:", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"
_CHUNKS_AT_LEAST: Final = 256
_BYTES_PER_CHUNK: Final = 512
_REFUSAL: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 25\r\n\r\nThe body comes in crumbs."
)

_EVENTS_AT_LEAST: Final = 256
_BYTES_PER_EVENT: Final = 512
_BACKLOG: Final = 1024  # connections that wait in the kernel
_ACCEPTED_AT_ONCE: Final = 32  # accepted in one go, before any of them is read


class Arrival(asyncio.Protocol):
    """A connection whose first request is not all here yet.

    ``make`` makes the protocol that takes over; ``guests`` are all connections of the server, ``slow`` those that keep
    it waiting, longest first: with more than ``most`` guests the first of these is dropped. The head of the request
    must come within ``head_seconds``.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        *,
        guests: set[Any],
        slow: dict[Any, None],
        most: int,
        head_seconds: float,
    ) -> None:
        self._make = make
        self._guests = guests
        self._slow = slow
        self._most = most
        self._head_seconds = head_seconds
        self._data = bytearray()
        self._seen = 0  # bytes known not to hold the end of the head
        self._needed: int | None = None  # bytes of head and body, once the head is here
        self._is_chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._guests.add(self)
        if len(self._guests) > self._most:
            next(iter(self._slow), self).give_up()
        self._slow[self] = None
        self._timer = asyncio.get_running_loop().call_later(self._head_seconds, self.give_up)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        if self._is_whole():
            self._hand_over()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._leave()

    def shutdown(self) -> None:
        """Drop the connection: the server ends."""
        self.give_up()

    def give_up(self) -> None:
        """Drop the connection."""
        self._leave()
        self._transport.abort()

    def _leave(self) -> None:
        self._timer.cancel()
        self._slow.pop(self, None)
        self._guests.discard(self)

    def _is_whole(self) -> bool:
        """Whether all that is gathered here has come, or something that can be refused without waiting for the rest."""
        if self._needed is None:
            end = _END_OF_HEAD.search(self._data, max(0, self._seen - 3))
            if end is None:
                self._seen = len(self._data)
                return self._data[0] <= 0x20 or self._seen > _HEAD_BYTES
            self._needed = end.end() + self._body_bytes(bytes(self._data[: end.end()]))
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_BODY_S, self._hand_over)
        if self._is_chunked and self._data.endswith(_LAST_CHUNK):
            return True
        return len(self._data) >= self._needed

    def _body_bytes(self, head: bytes) -> int:
        if _EXPECTS.search(head):  # the client sends its body only after an answer
            return 0
        self._is_chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        return _BODY_BYTES if self._is_chunked else min(_BODY_BYTES, int(length[1])) if length else 0

    def _hand_over(self) -> None:
        self._leave()
        if self._transport.is_closing():
            return
        if self._is_chunked and is_in_crumbs(self._data):
            self._transport.write(_REFUSAL)
            self._transport.close()
            return
        protocol = self._make()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._data))


def is_in_crumbs(data: bytes | bytearray) -> bool:
    """Whether a message has too many chunks for its size: a chunk of one byte costs as much as one of 64 kB."""
    end = _END_OF_HEAD.search(data)
    place, count = end.end() if end else len(data), 0
    while (line := data.find(b"\r\n", place, place + 20)) > 0:
        try:
            place = line + 2 + int(data[place:line].partition(b";")[0], 16) + 2
        except ValueError:
            return False  # not a valid message, which the parser reports
        count += 1
        if count > _CHUNKS_AT_LEAST + len(data) // _BYTES_PER_CHUNK:
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """At most ``connections`` at the same time, and at most half of the process's file descriptors.

    Within ``head_seconds`` of connecting, or of the last answer, the head of a request must have come; a client that
    stops reading its answer is dropped after ``write_seconds``. After SIGTERM or Ctrl-C, answers under way have
    ``grace_seconds`` to end, and the process has ``exit_seconds`` more.
    """

    connections: int = 512
    head_seconds: float = 10.0
    write_seconds: float = 30.0
    grace_seconds: int = 2
    exit_seconds: float = 2.0


def server_config(app: ASGIApp, limits: ConnectionLimits | None = None, **options: Any) -> uvicorn.Config:
    """The configuration of a `uvicorn.Server` that answers with ``app`` within ``limits``."""
    limits = limits or ConnectionLimits()
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelling)
    return uvicorn.Config(
        app,
        http=_limited_protocol(limits),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        backlog=_ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=limits.grace_seconds,
        **options,
    )


def run_server(app: ASGIApp, listener: socket.socket, limits: ConnectionLimits | None = None) -> int:
    """Answer with ``app`` at ``listener`` until SIGINT or SIGTERM; return the number of that signal.

    Call it in the main thread. A second signal ends the process immediately, and so does the end of ``grace_seconds``
    and ``exit_seconds``: a thread inside a model or a decoder may never end by itself.
    """
    server = _Server(server_config(app, limits := limits or ConnectionLimits()), limits)
    server.run(sockets=[listener])
    return server.ended_by


def _is_no_cancelling(record: logging.LogRecord) -> bool:
    """Whether a log record of uvicorn reports more than the requests that its shutdown cancelled."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and not record.getMessage().startswith("Cancel ")


class _Server(uvicorn.Server):
    """A server whose process ends, whatever hangs in it."""

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits) -> None:
        super().__init__(config)
        self._limits = limits
        self.ended_by = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`, which raises the signal again in the end."""
        if self.should_exit:
            os._exit(128 + sig)
        last = threading.Timer(self._limits.grace_seconds + self._limits.exit_seconds, os._exit, [128 + sig])
        last.daemon = True
        last.start()
        self.ended_by = sig
        self.should_exit = True


def _limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """The protocol of one server: its connections know of each other, and begin as an `Arrival`."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = limits.connections
    if descriptors != resource.RLIM_INFINITY:
        most = max(1, min(most, descriptors // 2))
    slow: dict[Any, None] = {}

    def make(options: dict[str, Any]) -> _LimitedProtocol:
        protocol = _LimitedProtocol(**options)
        protocol.limits, protocol.slow = limits, slow
        return protocol

    class Protocol(Arrival):
        def __init__(self, **options: Any) -> None:
            super().__init__(
                partial(make, options),
                guests=options["server_state"].connections,
                slow=slow,
                most=most,
                head_seconds=limits.head_seconds,
            )

    return Protocol


class _LimitedProtocol(H11Protocol):
    limits: ConnectionLimits
    slow: dict[Any, None]
    """The connections that keep us waiting, for a request or for the rest of one; the first has done so longest."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._counting = self.conn = _CountingConnection()
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        if self._is_answering():  # a second request before the answer to the first: clients must cope with its loss
            self.cycle.keep_alive = False
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._is_answering():
            self.slow.pop(self, None)
            if self.flow.read_paused:  # by a second request; without reading we would not see the client leave
                self.cycle.keep_alive = False
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        self._counting.begin_message()
        self._await_request()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # the answer is under way: there is no place for another
            self.give_up()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self.give_up)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.slow.pop(self, None)
        for timer in (self._head_timer, self._write_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()

    def _is_answering(self) -> bool:
        """Whether a whole request has come and its answer is not complete."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _await_request(self) -> None:
        self.slow.pop(self, None)
        self.slow[self] = None
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(self.limits.head_seconds, self.give_up)

    def give_up(self) -> None:
        """Drop the connection."""
        self.slow.pop(self, None)
        self.transport.abort()


class _CountingConnection(h11.Connection):
    """A connection that refuses messages in tiny chunks: parsing a chunk of one byte costs as much as one of 64 kB."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self.begin_message()

    def begin_message(self) -> None:
        """Start counting from zero."""
        self._events = self._bytes = 0

    def receive_data(self, data: bytes) -> None:
        self._bytes += len(data)
        super().receive_data(data)

    def next_event(self) -> Any:
        event = super().next_event()
        self._events += event is not h11.NEED_DATA
        if self._events > _EVENTS_AT_LEAST + self._bytes // _BYTES_PER_EVENT:
            raise h11.RemoteProtocolError("the message comes in crumbs")
        return event
