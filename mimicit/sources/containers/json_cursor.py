"""A cursor through a JSON file of any size, in constant memory.

It finds where values begin and end without decoding them: strings are passed with ``bytes.find``, nested values with
one regular expression that runs from bracket to bracket. What a caller wants to keep is copied out up to a limit
that the caller sets, so neither a string of 10 GB nor a million open brackets costs memory. Between the values the
grammar is checked, and a fault names its byte. The inside of a value is checked when the caller parses it.

Small values are passed many at a time: `JsonCursor.run` guesses where one of them ends, and if the bytes up to there
parse as whole values, these are the values of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from mimicit.errors import SourceError

_BLOCK_BYTES: Final = 1 << 20
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SCALAR: Final = re.compile(rb'[^ \t\r\n,:"\[\]{}]*+')
# Everything up to the next bracket, strings included. The first kind of string (no backslash before its closing
# quote) is the common one, and much faster to pass. Stops at a quote whose string does not end in the window.
# Objects and arrays without others inside are passed whole; it stops at those that do not end in the window.
_FLAT: Final = rb'[^"\[\]{}]++|"[^"]*+"(?<!\\")|"(?:[^"\\]++|\\.)*+"'
_UP_TO_BRACKET: Final = re.compile(rb"(?:%b|\{(?:%b)*+\}|\[(?:%b)*+\])*+" % (_FLAT, _FLAT, _FLAT), re.DOTALL)
# The beginning of an object, up to its first key; as a member of another object, with the key that stands before it.
_HEAD: Final = re.compile(
    rb'(?:"(?:[^"\\]++|\\.)*+"[ \t\r\n]*+:[ \t\r\n]*+)?(\{[ \t\r\n]*+"(?:[^"\\]++|\\.)*+")', re.DOTALL
)
_RUN_BYTES: Final = 96 << 10  # so that the parsed values stay in the cache of a processor
_MAX_DEPTH: Final = 10_000  # deeper than any JSON parser goes; ends a file of nothing but brackets
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value lies: ``length`` bytes at ``offset`` (a string: without its quotes).

    ``raw`` are these bytes as written, or None if they are more than the caller wanted to keep.
    """

    offset: int
    length: int
    raw: bytes | None


class JsonCursor:
    """Walks through the one JSON value of ``file``; ``path`` is its name in messages.

    `members` and `elements` step into an object or an array: after each key or index they yield, the caller passes
    the value with `value`, or steps into it in turn. With ``start`` and ``end``, it stands at the byte ``start``, and
    the file seems to end at ``end``.
    """

    def __init__(
        self, file: BinaryIO, path: str, *, block_bytes: int = _BLOCK_BYTES, start: int = 0, end: int | None = None
    ) -> None:
        self._file = file
        self._path = path
        self._block_bytes = block_bytes
        self._window = b""
        self._window_offset = start
        self._end = end
        self._at = 0
        self._kept: list[bytes] = []
        self._kept_from = -1  # index in the window from which bytes are kept; -1: they are not
        self._kept_room = 0
        self._run_end = 0
        self._passed = 1  # elements, since the last was yielded
        if start:
            file.seek(start)
        else:
            self._pass_mark()

    def _pass_mark(self) -> None:
        for byte in _BOM:
            if not self._more() or self._window[self._at] != byte:
                break
            self._at += 1
        if self.offset not in (0, len(_BOM)):
            raise self.fault("neither JSON nor a byte order mark")

    @property
    def offset(self) -> int:
        """The byte of the file at which the cursor stands."""
        return self._window_offset + self._at

    def peek(self) -> bytes:
        """The next byte that is not white space, left in place; empty at the end of the file."""
        while self._more():
            match = _SPACE.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._window):
                return self._window[self._at : self._at + 1]
        return b""

    def take(self, byte: bytes) -> None:
        """Pass ``byte``, after any white space; `SourceError` if something else is there."""
        found = self.peek()
        if found != byte:
            raise self.fault(f"expected {byte.decode()!r}, found {_byte_in_words(found)}")
        self._at += 1

    def members(self) -> Iterator[Span]:
        """Step into an object: its keys one by one, with the cursor before the value."""
        return (self.key() for _ in self.entries())

    def entries(self) -> Iterator[None]:
        """Step into an object: once for each of its members, with the cursor before the key."""
        self.take(b"{")
        if self.peek() != b"}":
            yield
            while self.peek() == b",":
                self._at += 1
                yield
        self.take(b"}")

    def entries_left(self) -> Iterator[None]:
        """As `entries`, from the member at which the cursor stands to the end of what it reads."""
        while self.peek() not in (b"", b"}"):
            yield
            if self.peek() == b",":
                self._at += 1

    def elements(self) -> Iterator[int]:
        """Step into an array: its indices one by one, with the cursor before the element."""
        self.take(b"[")
        if self.peek() != b"]":
            index, self._passed = 0, 1
            yield index
            while self.peek() == b",":
                self._at += 1
                index += self._just_passed()
                yield index
        self.take(b"]")

    def run(self, most: int) -> bytes:
        """The bytes from here on that are probably several whole values or members of an object, with their commas.

        If they can be parsed as these, the caller passes them with `skip`. Empty if there is nothing to try; at most
        ``most`` bytes, and about 100,000.
        """
        if self.offset < self._run_end or not self.peek():
            return b""
        window, start, cut = self._window, self._at, -1
        end = min(len(window), start + min(most, _RUN_BYTES))
        if head := _HEAD.match(window, start, end):
            last = window.rfind(head[1], head.end(), end)
            cut = window.rfind(b",", head.end(), last) if last > 0 else -1
        self._run_end = self._window_offset + (end if cut < 0 else cut)  # a failed run is not tried again
        return window[start:cut] if cut > 0 else b""

    def skip(self, run: bytes, values: int = 1) -> None:
        """Pass the ``run``, which holds the number ``values`` of elements."""
        self._at += len(run)
        self._passed = max(1, values)

    def _just_passed(self) -> int:
        passed, self._passed = self._passed, 1
        return passed

    def value(self, *, keep_bytes: int) -> Span:
        """Pass one value, and keep what is written there if it is at most ``keep_bytes`` long."""
        first = self.peek()
        if first == b'"':
            return self._string(keep_bytes)
        start = self.offset
        self._start_keeping(keep_bytes)
        if first and first in b"{[":
            self._pass_nested()
        else:
            self._pass_scalar()
        return Span(start, self.offset - start, self._kept_bytes(self._at))

    def elements_from(self, first: int) -> Iterator[int]:
        """The elements from number ``first`` on, at which the cursor stands, to the end of what it reads."""
        index = first
        while self.peek() not in (b"", b"]"):
            yield index
            index += self._just_passed()
            if self.peek() == b",":
                self._at += 1

    def finish(self) -> None:
        """`SourceError` unless only white space is left."""
        found = self.peek()
        if found:
            raise self.fault(f"expected the end of the file, found {_byte_in_words(found)}")

    def fault(self, what: str) -> SourceError:
        """An error that names the file and the byte at which the cursor stands."""
        return SourceError(f"{self._path}: not valid JSON at byte {self.offset}: {what}")

    def key(self) -> Span:
        """Pass the key of a member, and the colon after it."""
        if self.peek() != b'"':
            raise self.fault(f"expected a quoted name, found {_byte_in_words(self.peek())}")
        key = self._string(1 << 16)
        self.take(b":")
        return key

    def _string(self, keep_bytes: int) -> Span:
        self.take(b'"')
        start = self.offset
        self._start_keeping(keep_bytes)
        self._pass_rest_of_string()
        return Span(start, self.offset - 1 - start, self._kept_bytes(self._at - 1))

    def _pass_rest_of_string(self) -> None:
        escaped = False  # whether the first byte here is escaped by a backslash in the window before
        while self._more():
            start = self._at + escaped
            quote = _closing_quote(self._window, start)
            if quote >= 0:
                self._at = quote + 1
                return
            escaped = _ends_in_escape(self._window, start)
            self._at = len(self._window)
        raise self.fault("the file ends inside a string")

    def _pass_nested(self) -> None:
        self._at += 1  # the bracket that opens it
        depth = 1
        while self._more():
            match = _UP_TO_BRACKET.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at == len(self._window):
                continue
            byte = self._window[self._at]
            self._at += 1
            if byte == ord('"'):
                self._pass_rest_of_string()
            elif byte in b"{[":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise self.fault(f"nested deeper than {_MAX_DEPTH} levels")
            else:
                depth -= 1
                if depth == 0:
                    return
        raise self.fault("the file ends inside a value")

    def _pass_scalar(self) -> None:
        start = self.offset
        while self._more():
            match = _SCALAR.match(self._window, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._window):
                break
        if self.offset == start:
            raise self.fault(f"expected a value, found {_byte_in_words(self.peek())}")

    def _more(self) -> bool:
        # Makes sure that the window holds a byte at the cursor; false at the end of the file.
        while self._at == len(self._window):
            read = self._window_offset + len(self._window)
            left = self._block_bytes if self._end is None else min(self._block_bytes, self._end - read)
            block = self._file.read(left)
            if not block:
                return False
            if self._kept_from >= 0:
                self._keep(len(self._window))
                self._kept_from = min(self._kept_from, 0)
            self._window_offset += len(self._window)
            self._window, self._at = block, 0
        return True

    def _start_keeping(self, limit: int) -> None:
        self._kept.clear()
        self._kept_from, self._kept_room = self._at, limit

    def _keep(self, end: int) -> None:
        self._kept_room -= end - self._kept_from
        if self._kept_room < 0:
            self._kept.clear()
            self._kept_from = -1
        else:
            self._kept.append(self._window[self._kept_from : end])

    def _kept_bytes(self, end: int) -> bytes | None:
        if self._kept_from >= 0:
            self._keep(end)
        whole = b"".join(self._kept) if self._kept_from >= 0 else None
        self._kept.clear()
        self._kept_from = -1
        return whole


def _closing_quote(window: bytes, start: int) -> int:
    """Where the string that continues at ``start`` ends, or -1 if not in this window."""
    quote = window.find(b'"', start)
    if quote <= start or window[quote - 1] != ord("\\"):
        return quote
    match = _IN_STRING.match(window, start)
    end = match.end() if match else start
    return end if window[end : end + 1] == b'"' else -1


def _ends_in_escape(window: bytes, start: int) -> bool:
    """Whether the window ends in an odd number of backslashes, in a string that continues at ``start``."""
    if not window.endswith(b"\\"):
        return False
    return min(len(window) - len(window.rstrip(b"\\")), len(window) - start) % 2 == 1


def _byte_in_words(byte: bytes) -> str:
    return repr(byte)[1:] if byte else "the end of the file"
