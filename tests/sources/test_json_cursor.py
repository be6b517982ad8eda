from __future__ import annotations

import io
import json
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.errors import SourceError
from mimicit.sources.containers.json_cursor import JsonCursor
from tests.factories.sources import json_values

NASTY = '{"a\\"b": ["\\\\", "\\\\\\"", "}]{[", {"k": [[], {}]}], "": -1.5e3, "z": null, "t": true, "u": "\\u00e9\\/"}'


def cursor(text: bytes | str, block_bytes: int = 1 << 20) -> JsonCursor:
    data = text if isinstance(text, bytes) else text.encode()
    return JsonCursor(io.BytesIO(data), "f.json", block_bytes=block_bytes)


def walked(data: bytes, block_bytes: int) -> Any:
    """The value of ``data``, put together from the spans of its members or elements."""
    walker = cursor(data, block_bytes)
    first = walker.peek()
    result: Any
    if first == b"{":
        result = {}
        for key in walker.members():
            is_text = walker.peek() == b'"'
            name = json.loads(data[key.offset - 1 : key.offset + key.length + 1])
            result[name] = value_of(data, walker, is_text)
    elif first == b"[":
        result = [value_of(data, walker, walker.peek() == b'"') for _ in walker.elements()]
    else:
        result = value_of(data, walker, first == b'"')
    walker.finish()
    return result


def value_of(data: bytes, walker: JsonCursor, is_text: bool) -> Any:
    span = walker.value(keep_bytes=len(data))
    assert span.raw == data[span.offset : span.offset + span.length]
    return json.loads(b'"' + span.raw + b'"' if is_text else span.raw)


@given(json_values, st.integers(1, 40), st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_spans_are_the_values_of_json_at_every_window_size(
    value: Any, block_bytes: int, indent: int | str | None, ascii_only: bool, has_bom: bool
) -> None:
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert walked(b"\xef\xbb\xbf" + data if has_bom else data, block_bytes) == json.loads(data)


@pytest.mark.parametrize("block_bytes", range(1, len(NASTY) + 2))
def test_a_nasty_object_at_every_window_size(block_bytes: int) -> None:
    assert walked(NASTY.encode(), block_bytes) == json.loads(NASTY)


@given(st.integers(0, 60), st.integers(1, 20))
def test_a_value_is_kept_only_up_to_the_limit(keep: int, block_bytes: int) -> None:
    text = '{"key": "a value of some length", "n": [1, 2, 3]}'
    span = cursor(text, block_bytes).value(keep_bytes=keep)
    assert (span.offset, span.length) == (0, len(text))
    assert span.raw == (text.encode() if keep >= len(text) else None)


@pytest.mark.parametrize(
    ("text", "byte"),
    [
        ("", 0),
        ("{", 1),
        ('{"a"', 4),
        ('{"a":', 5),
        ('{"a": }', 6),
        ('{"a": 1', 7),
        ('{"a": 1,}', 8),
        ('{"a": "x', 8),
        ('{"a": [1, [2]', 13),
        ('{"a": 1} x', 9),
        ('{"a": 1]', 7),
        ("{'a': 1}", 1),
        ('{"a" "b"}', 5),
        ("[1]", 0),
    ],
)
def test_a_fault_names_its_byte(text: str, byte: int) -> None:
    for block_bytes in (1, 3, 100):
        walker = cursor(text, block_bytes)
        with pytest.raises(SourceError, match=rf"^f\.json: not valid JSON at byte {byte}:"):
            walk(walker, 100)


@pytest.mark.parametrize("text", [b"\xff\xfe{\0}\0", b"\xef\xbb", b"\xef{}", b"\x80"])
def test_another_encoding_is_a_fault(text: bytes) -> None:
    with pytest.raises(SourceError, match=r"^f\.json"):
        list(cursor(text).members())


class Endless(io.RawIOBase):
    """``size`` bytes of ``pattern`` after ``start``."""

    def __init__(self, start: bytes, pattern: bytes, size: int) -> None:
        self._rest = start
        self._pattern = pattern
        self._size = size

    def read(self, size: int = -1) -> bytes:
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        taken = min(size, self._size)
        self._size -= taken
        return (self._pattern * (taken // len(self._pattern) + 1))[:taken]


def walk(walker: JsonCursor, keep_bytes: int) -> None:
    for _ in walker.members():
        walker.value(keep_bytes=keep_bytes)
    walker.finish()


@pytest.mark.parametrize(
    ("start", "pattern"),
    [
        (b'{"a": "', b"A"),
        (b'{"a": "', b"\\"),
        (b'{"a": "', b'\\"'),
        (b'{"a": ["', b'\\"'),
        (b'{"a": ', b"["),
        (b'{"a": ', b"1"),
        (b'{"', b"k"),
    ],
)
def test_a_value_that_never_ends_costs_no_memory(start: bytes, pattern: bytes) -> None:
    walker = JsonCursor(Endless(start, pattern, 6_000_001), "f.json", block_bytes=1 << 16)  # type: ignore[arg-type]
    tracemalloc.start()
    with pytest.raises(SourceError, match=r"the file ends|expected|nested deeper"):
        walk(walker, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_random_bytes_end_in_a_value_or_a_fault() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        data = bytes(rng.choices(b'{}[]",:\\ a1\n', k=rng.randrange(24)))
        try:
            walked(data, rng.randrange(1, 9))
        except (SourceError, json.JSONDecodeError):
            with pytest.raises(json.JSONDecodeError):
                json.loads(data)
        else:
            json.loads(data)
