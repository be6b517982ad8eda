"""Cutting a source into pieces that are read side by side: ranges of a JSON file, or groups of files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_rows import is_array, pass_elements
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Piece
from mimicit.sources.sniff import sniff

__all__ = ["split_files", "split_json"]

_PIECE_BYTES: Final = 8 << 20
_GROUP_BYTES: Final = 16 << 20


def split_files(spec: SourceSpec, root: Root) -> list[Piece]:
    """Groups of consecutive files of ``spec``, each of some `_GROUP_BYTES`."""
    groups: list[list[str]] = [[]]
    size = 0
    for path in spec.files:
        if size >= _GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += _size(root, path)
    return [Piece(paths=tuple(group)) for group in groups]


def split_json(spec: SourceSpec, root: Root) -> list[Piece]:
    """Cut the JSON files of ``spec`` into pieces of some `_PIECE_BYTES`; others stay whole.

    An array is passed through once, which also checks its grammar between the records: `SourceError`.
    """
    return [piece for path in spec.files for piece in _ranges(root, path)]


def _size(root: Root, path: str) -> int:
    try:
        return root.size(path)
    except RejectedError:  # reading it will say what is wrong
        return 0


def _ranges(root: Root, path: str) -> Iterator[Piece]:
    whole = Piece(paths=(path,))
    if sniff(root, path).kind not in ("array", "lines"):
        yield whole
        return
    with open_text(root, path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size < 2 * _PIECE_BYTES:
            yield whole
            return
        array = is_array(file)
        starts = list(_starts_in_array(file, path) if array else _starts_of_lines(file))
    for (first, start), (_, end) in pairwise([*starts, (0, size)]):
        if start < end:
            yield replace(whole, start=start, end=end, first=first, is_array=array)


def _starts_in_array(file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    """(index, byte) of the first record of each piece."""
    cursor = JsonCursor(file, path)
    last = -_PIECE_BYTES
    for index in cursor.elements():
        cursor.peek()
        if cursor.offset - last >= _PIECE_BYTES:
            last = cursor.offset
            yield index, last
        pass_elements(cursor, _PIECE_BYTES // 64)
    cursor.finish()


def _starts_of_lines(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(lines before it, byte) of the first line of each piece."""
    number = start = 0
    yield number, start
    while block := file.read(_PIECE_BYTES):
        while block:
            number += block.count(b"\n")
            start += len(block)
            if block.endswith(b"\n"):
                break
            block = file.readline(_PIECE_BYTES)
        yield number, start
