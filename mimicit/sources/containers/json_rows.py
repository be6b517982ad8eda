"""The records of a JSON file: an array of them, or one on each line (JSON Lines), told apart by `begins_array`.

Records come one by one, whatever the size of the file. A record that cannot be parsed costs only itself. An array
that breaks between its records cannot be followed any further: that is a `SourceError`. If a line is a list of objects,
each of them is a record.

A key that occurs twice in an object is found, too, although parsers silently take the last one: serialised again, the
parsed value has as many colons as the text, unless a key was dropped; only then is the text parsed again, slowly. Cost:
a microsecond a kilobyte.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.json_cursor import JsonCursor, Span
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.items import InJson, Piece, Row

MAX_RECORD_BYTES: Final = 64 << 20
MAX_RECORD_VALUES: Final = 2_000_000
_NO_OBJECT: Final = "a record must be a JSON object"
_BOM: Final = b"\xef\xbb\xbf"
_LOOK_BYTES: Final = 4 << 20
_LOOK_LINES: Final = 1_000
_ESCAPED_COLON: Final = re.compile(rb"\\u003[aA]")  # in a text, and serialised as a plain colon


class Line(NamedTuple):
    """A line of JSON Lines: ``raw`` without white space at its ends, which begins ``offset`` bytes into the file.

    ``raw`` is None if the line is longer than `MAX_RECORD_BYTES`.
    """

    place: str
    offset: int
    raw: bytes | None


def json_rows(root: Root, path: str, piece: Piece | None = None) -> Iterator[Row]:
    """The records of the JSON file at ``path``, each an object, or the reason why it is none.

    Places are ``path[index]`` in an array, ``path:line`` in JSON Lines, counted from 0 and from 1. With a ``piece`` of
    the file, only its records.
    """
    with open_text(root, path) as file:
        if piece is not None and piece.end is not None:
            yield from _array_piece(file, path, piece) if piece.is_array else _lines(file, path, piece)
        else:
            yield from _array(file, path) if is_array(file) else _lines(file, path)


def is_array(file: BinaryIO) -> bool:
    """Whether ``file`` is one array (see `begins_array`); leaves it at its start."""
    found = begins_array(file.read(_LOOK_BYTES))
    file.seek(0)
    return found


def begins_array(head: bytes) -> bool:
    """Whether the JSON that begins with ``head`` is one array, and not JSON Lines whose first line is a list.

    It is JSON Lines if the first line is a list by itself and others follow, or if the array breaks and more lines are
    objects than elements were read of it.
    """
    text = head.removeprefix(_BOM).lstrip()
    if text[:1] != b"[":
        return False
    first, _, rest = text.partition(b"\n")
    if rest.lstrip()[:1] in (b"{", b"[") and first.rstrip().endswith(b"]") and _is_a(list, first):
        return False
    lines = map(bytes.strip, rest.split(b"\n", _LOOK_LINES)[:_LOOK_LINES])
    objects = sum(line[:1] == b"{" and line[-1:] == b"}" and _is_a(dict, line) for line in lines)
    return objects <= _elements_before_a_fault(text, objects) if objects else True


def _elements_before_a_fault(array: bytes, most: int) -> int:
    """How many elements can be read of ``array``; ``most`` if there is no fault before it ends."""
    cursor = JsonCursor(io.BytesIO(array), "")
    passed = 0
    try:
        for index in cursor.elements():
            passed = index
            cursor.value(keep_bytes=0)
    except SourceError:  # also at the end of what was read
        return passed
    return most


def _is_a(kind: type, line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), kind)  # unlike orjson, it reads the NaN that Python writes
    except (ValueError, RecursionError):
        return False


def parsed(raw: bytes | None) -> Any:
    """The JSON value written as ``raw``; `RejectedError` ``malformed``, or ``too_long`` if it was not kept (None).

    An object with a repeated key is malformed, as it does not say which value is meant. ``NaN`` and ``Infinity``, which
    Python writes, are the floats of that name.
    """
    if raw is None:
        raise RejectedError("too_long", f"the record takes more than {MAX_RECORD_BYTES} bytes")
    # Each value takes 60 bytes or more once it is read.
    if len(raw) > MAX_RECORD_VALUES and sum(map(raw.count, (b",", b"[", b"{"))) > MAX_RECORD_VALUES:
        raise RejectedError("too_long", f"the record holds more than {MAX_RECORD_VALUES:,} commas and brackets")
    try:
        value = json.loads(raw) if _holds_nan(raw) else _quickly_parsed(raw)
        repeated = repeated_key(raw, value)
    except (ValueError, RecursionError) as error:
        raise RejectedError("malformed", f"not valid JSON: {error}") from None
    if repeated is not None:
        raise RejectedError("malformed", f"key {repeated[:80]!r} stands twice in one object")
    return value


def _quickly_parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "infinity" not in str(error):
            raise
        return json.loads(raw)  # a number such as 1e999, which is Infinity to Python


def _holds_nan(raw: bytes) -> bool:
    """Whether ``raw`` may hold a number that only Python's own parser reads, which is ten times slower."""
    return b"NaN" in raw or b"Infinity" in raw


def parsed_run(raw: bytes) -> Any:
    """The array or object written as ``raw``, if its values parse as they would one by one; else None."""
    if _holds_nan(raw):
        return None
    try:
        value = orjson.loads(raw)
        return value if repeated_key(raw, value) is None else None
    except (ValueError, RecursionError):
        return None


def elements(cursor: JsonCursor, path: str, place: str, indices: Iterable[int]) -> Iterator[list[Row]]:
    """The records at ``cursor``, which steps through the ``indices`` of an array called ``place``, in blocks."""
    for index in indices:
        run, start = cursor.run(MAX_RECORD_BYTES), cursor.offset
        values = parsed_run(b"[%b]" % run) if run else None
        if values is None:
            yield [element(cursor, path, f"{place}[{index}]")]
            continue
        cursor.skip(run, len(values))
        texts = _RunTexts(path, start, run)
        yield [
            Row(f"{place}[{index + number}]", value, partial(texts.locate, number))
            if isinstance(value, dict)
            else Row(f"{place}[{index + number}]", RejectedError("malformed", _NO_OBJECT))
            for number, value in enumerate(values)
        ]


def pass_elements(cursor: JsonCursor, most: int) -> None:
    """Pass the element at ``cursor``, and if one run covers them, those after it within ``most`` bytes."""
    run = cursor.run(most)
    values = _values_in(b"[%b]" % run)
    if values:
        cursor.skip(run, values)
    else:
        cursor.value(keep_bytes=0)


def pass_members(cursor: JsonCursor, most: int) -> None:
    """As `pass_elements`, for the members of an object."""
    run = cursor.run(most)
    if _values_in(b"{%b}" % run):
        cursor.skip(run)
    else:
        cursor.key()
        cursor.value(keep_bytes=0)


def _values_in(raw: bytes) -> int:
    """How many values the array or object written as ``raw`` has; 0 if it cannot be parsed."""
    try:
        return len(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return 0


class _RunTexts:
    """Finds the texts of the records of a run, which begins ``offset`` bytes into the file at ``path``."""

    def __init__(self, path: str, offset: int, run: bytes) -> None:
        self._path = path
        self._offset = offset
        self._run = run
        self._records: list[Span] = []

    def locate(self, number: int, steps: Sequence[str | int]) -> InJson:
        """As `located_text`, for the record with this number."""
        if not self._records:
            cursor = JsonCursor(io.BytesIO(b"[%b]" % self._run), self._path)
            self._records = [cursor.value(keep_bytes=0) for _ in cursor.elements()]
        start, length = self._records[number].offset - 1, self._records[number].length
        return located_text(self._path, self._offset + start, self._run[start : start + length], steps)


def element(cursor: JsonCursor, path: str, place: str) -> Row:
    """Pass the value at ``cursor`` in the file at ``path``: the record, or why it is none."""
    is_object = cursor.peek() == b"{"
    span = cursor.value(keep_bytes=MAX_RECORD_BYTES if is_object else 0)
    if not is_object:
        return Row(place, RejectedError("malformed", _NO_OBJECT))
    return Row(place, record_of(span.raw), partial(located_text, path, span.offset, span.raw or b""))


def located_text(path: str, offset: int, raw: bytes, steps: Sequence[str | int]) -> InJson:
    """Where the text at ``steps`` in the JSON ``raw`` lies; ``raw`` begins ``offset`` bytes into the file ``path``."""
    cursor = JsonCursor(io.BytesIO(raw), path)
    for step in steps:
        if not _step_into(cursor, step):
            raise RejectedError("malformed", f"there is no {step!r} in the record")
    if cursor.peek() != b'"':
        raise RejectedError("malformed", f"{'.'.join(map(str, steps))} must be text")
    span = cursor.value(keep_bytes=0)
    return InJson(path, offset + span.offset, span.length)


def _step_into(cursor: JsonCursor, step: str | int) -> bool:
    """Move ``cursor`` to the member or element ``step`` of the value it stands at; false if there is none."""
    found: Iterable[bool] = ()
    if isinstance(step, int) and cursor.peek() == b"[":
        found = (index == step for index in cursor.elements())
    elif isinstance(step, str) and cursor.peek() == b"{":
        found = (json.loads(b'"%s"' % (key.raw or b"")) == step for key in cursor.members())
    for is_it in found:
        if is_it:
            return True
        cursor.value(keep_bytes=0)
    return False


def json_lines(file: BinaryIO, path: str, piece: Piece | None = None) -> Iterator[Line]:
    """The lines of ``file`` that are not blank; ``path`` is what their places begin with."""
    number, end, stop = (0, 0, None) if piece is None else (piece.first, piece.start, piece.end)
    if end:
        file.seek(end)
    while (stop is None or end < stop) and (line := file.readline(MAX_RECORD_BYTES + len(b"\r\n"))):
        number += 1
        start, end = end, end + len(line)
        place = f"{path}:{number}"
        if len(line) > MAX_RECORD_BYTES and len(line.rstrip(b"\r\n")) > MAX_RECORD_BYTES:
            while line and not line.endswith(b"\n"):
                line = file.readline(1 << 20)
                end += len(line)
            yield Line(place, start, None)
            continue
        text = line.removeprefix(_BOM).lstrip() if number == 1 else line.lstrip()
        if text:
            yield Line(place, end - len(text), text.rstrip())


def record_of(raw: bytes | None) -> dict[str, Any] | RejectedError:
    """The object written as ``raw``, or why it is none; ``raw`` is None if it was too long to keep."""
    try:
        value = parsed(raw)
    except RejectedError as error:
        return error
    if not isinstance(value, dict):
        return RejectedError("malformed", _NO_OBJECT)
    return value


def _array(file: BinaryIO, path: str) -> Iterator[Row]:
    cursor = JsonCursor(file, path)
    yield from chain.from_iterable(elements(cursor, path, path, cursor.elements()))
    cursor.finish()


def _array_piece(file: BinaryIO, path: str, piece: Piece) -> Iterator[Row]:
    cursor = JsonCursor(file, path, start=piece.start, end=piece.end)
    yield from chain.from_iterable(elements(cursor, path, path, cursor.elements_from(piece.first)))


def _lines(file: BinaryIO, path: str, piece: Piece | None = None) -> Iterator[Row]:
    for line in json_lines(file, path, piece):
        if line.raw is not None and line.raw.startswith(b"["):
            yield from _rows_of_list(line, line.raw, path)
        else:
            yield Row(line.place, record_of(line.raw), partial(located_text, path, line.offset, line.raw or b""))


def _rows_of_list(line: Line, raw: bytes, path: str) -> Iterator[Row]:
    """The records of a line that is a list of them; else one row with the fault of the line."""
    try:
        values = parsed(raw)
    except RejectedError as error:
        yield Row(line.place, error)
        return
    if not (values and all(isinstance(value, dict) for value in values)):
        yield Row(line.place, RejectedError("malformed", _NO_OBJECT))
        return
    cursor = JsonCursor(io.BytesIO(raw), path)
    for index in cursor.elements():
        span = cursor.value(keep_bytes=MAX_RECORD_BYTES)
        locate = partial(located_text, path, line.offset + span.offset, span.raw or b"")
        yield Row(f"{line.place}[{index}]", values[index], locate)


def repeated_key(raw: bytes, value: Any) -> str | None:
    """A key that occurs twice in one object of the JSON text ``raw``, which was parsed as ``value``; or None.

    `RecursionError` if the text is nested too deeply to decide.
    """
    if not _ESCAPED_COLON.search(raw):
        try:
            if orjson.dumps(value).count(b":") == raw.count(b":"):
                return None
        except orjson.JSONEncodeError:
            pass  # nested deeply, or a number or text that only Python's own parser reads
    repeated: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(raw, object_pairs_hook=check)
    return repeated[0] if repeated else None
