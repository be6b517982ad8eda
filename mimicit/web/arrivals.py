"""Keep each connection waiting until its first request is there: nothing is built for those that never send one.

A protocol of uvicorn and the task of an application cost a hundred times what a few bytes in a buffer do. Hundreds of
strangers who send half a request each, byte by byte, and connect again when they are dropped, would keep the event
loop busy with nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final, cast

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
