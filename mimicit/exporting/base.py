"""The interface of target formats, a function from a stream of samples to a folder, and the files that several write.

JSON is written value by value, so that its size does not matter. Media get names made of their hash: safe whatever a
shard says, and each distinct file once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from mimicit.records import Media, Sample


@dataclass(slots=True, kw_only=True)
class Written:
    """What an export has written: ``records`` of the format, ``media`` files or entries, and what could not be held.

    ``lost`` counts in words, such as ``{"documents": 3}``.
    """

    records: int = 0
    media: int = 0
    lost: Counter[str] = field(default_factory=Counter)


class Exporter(Protocol):
    """Writes samples as one format; holds one of them at a time in memory."""

    def __call__(self, samples: Iterable[Sample], folder: Path, scratch: Path) -> Written:
        """Write all ``samples`` into the empty ``folder``; ``scratch`` is an empty folder that is thrown away."""
        ...


def is_document(sample: Sample) -> bool:
    """Whether ``sample`` is an interleaved web document: chunks of text without questions."""
    return sample.query.relation == "document"


def append_line(path: Path, value: Any) -> None:
    """Add one line to a JSON Lines file, which is created with its folder if it is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(orjson.dumps(value) + b"\n")


def write_lines(path: Path, values: Iterable[Any]) -> int:
    """Write JSON Lines, one line for each of ``values``; return their number. No values: no file."""
    return _write(path, (orjson.dumps(value) for value in values), start=b"", between=b"\n", end=b"\n")


def write_array(path: Path, values: Iterable[Any]) -> int:
    """Write a JSON array, one element on each line; return their number. No values: no file."""
    return _write(path, (orjson.dumps(value) for value in values), start=b"[\n", between=b",\n", end=b"\n]\n")


def write_object(
    path: Path, members: Iterable[tuple[str, Any]], *, start: bytes = b"{\n", end: bytes = b"\n}\n"
) -> int:
    """Write a JSON object of the ``members`` in their order; return their number. No members: no file.

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


def file_names(media: Media) -> list[str]:
    """The name of each file of ``media``: its SHA-256 with the extension of the shard's member."""
    return [f"{digest}.{file.rpartition('.')[2]}" for file, digest in zip(media.files, media.sha256, strict=True)]


def stored_files(media: Media) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each file of ``media``, by `file_names`."""
    return zip(file_names(media), media.data, strict=True)


class MediaFolder:
    """A folder of media files; ``count`` is how many it holds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self, media: Media) -> None:
        """Store the files that are not there yet."""
        for name, data in stored_files(media):
            path = self._folder / name
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                self.count += 1
