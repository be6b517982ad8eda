"""JSON files written value by value, so that their size does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

__all__ = ["append_line", "write_array", "write_lines", "write_object"]


def append_line(path: Path, value: Any) -> None:
    """Add one line to a JSON Lines file, which is created with its folder where it is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(orjson.dumps(value) + b"\n")


def write_lines(path: Path, values: Iterable[Any]) -> int:
    """JSON Lines, one line for each of ``values``; returns their number. No values: no file."""
    return _write(path, (orjson.dumps(value) for value in values), start=b"", between=b"\n", end=b"\n")


def write_array(path: Path, values: Iterable[Any]) -> int:
    """A JSON array, one element on each line; returns their number. No values: no file."""
    return _write(path, (orjson.dumps(value) for value in values), start=b"[\n", between=b",\n", end=b"\n]\n")


def write_object(
    path: Path, members: Iterable[tuple[str, Any]], *, start: bytes = b"{\n", end: bytes = b"\n}\n"
) -> int:
    """A JSON object of the ``members`` in their order; returns their number. No members: no file.

    ``start`` and ``end`` may hold an object around it.
    """
    return _write(path, map(_member, members), start=start, between=b",\n", end=end)


def _member(member: tuple[str, Any]) -> bytes:
    name, value = member
    return orjson.dumps(name) + b": " + orjson.dumps(value)


def _write(path: Path, chunks: Iterable[bytes], *, start: bytes, between: bytes, end: bytes) -> int:
    iterator: Iterator[bytes] = iter(chunks)
    first = next(iterator, None)
    if first is None:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 1
    with open(path, "xb") as file:
        file.write(start + first)
        for chunk in iterator:
            file.write(between + chunk)
            count += 1
        file.write(end)
    return count
