"""Cutting a source into pieces that are read side by side: ranges of a large file, or groups of small ones.

A JSON or CSV file is passed through once to find where its records begin; as reading does, that checks the grammar
between them, and raises `SourceError`. A source with such a fault is not cut, so that it fails as it does in one go.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import BinaryIO, Final

from mimicit.errors import RejectedError
from mimicit.sources.containers.csv_rows import csv_starts
from mimicit.sources.containers.json_cursor import JsonCursor
from mimicit.sources.containers.json_rows import is_array, pass_elements, pass_members
from mimicit.sources.containers.parquet import parquet_groups_of
from mimicit.sources.containers.table_process import value_apart
from mimicit.sources.containers.unpacked import open_text, open_unzipped, zipped_size
from mimicit.sources.files.root import Root
from mimicit.sources.format import SourceSpec
from mimicit.sources.items import Piece
from mimicit.sources.sniff import sniff

_PIECE_BYTES: Final = 8 << 20
_GROUP_BYTES: Final = 16 << 20
_ZIPPED_BYTES: Final = 64 << 20
_PARQUET_MARK: Final = b"PAR1"

Cut = Callable[[Root, str], list[Piece]]
"""The pieces of one file; a single piece is the whole file."""

_Starts = Callable[[BinaryIO, str], Iterable[tuple[int, int]]]
"""(records before it, byte) of the first record of each piece of the open file, whose path is for messages."""


def split_files(spec: SourceSpec, root: Root) -> list[Piece]:
    """Groups of consecutive files of ``spec``, each of about `_GROUP_BYTES`."""
    return grouped(root, map(whole, spec.files))


def split_json(spec: SourceSpec, root: Root) -> list[Piece]:
    """Cut the files of ``spec``, arrays and JSON Lines, into pieces of about `_PIECE_BYTES`; others stay whole."""
    return [piece for path in spec.files for piece in cut_records(root, path)]


def cut_records(root: Root, path: str) -> list[Piece]:
    """The `Cut` of an array, JSON Lines or CSV."""
    match sniff(root, path).kind:
        case "array" | "lines":
            return _cut(root, path)
        case "csv":
            return _cut(root, path, partial(csv_starts, _PIECE_BYTES))
    return [whole(path)]


def cut_lines(root: Root, path: str) -> list[Piece]:
    """The `Cut` of lines, plain or in a ``.zip``; a large ``.zip`` is read through a copy."""
    zipped = zipped_size(root, path)
    if zipped is None:
        return _cut(root, path, _starts_of_lines)
    if zipped < _ZIPPED_BYTES:  # as they are published: many of them, each unpacked while it is read
        return [whole(path)]
    return _cut(root, path, _starts_of_lines, open_unzipped)


def cut_list(name: str) -> Cut:
    """The `Cut` of a JSON object by the records of its list ``name``; any other member is in none of the pieces."""
    return partial(_cut, starts=partial(_starts_in_list, name.encode()))


def cut_members(name: str = "") -> Cut:
    """The `Cut` of a JSON object by its members; with a ``name``, by the members of its object of that name."""
    return partial(_cut, starts=partial(_starts_in_object, name.encode()))


def joined_pieces(entries: Sequence[Piece], records: Sequence[Piece]) -> list[Piece]:
    """The pieces of a source with a `Join`; empty if there is nothing to read side by side."""
    if max(len(entries), len(records)) < 2:
        return []
    return [*(replace(piece, is_entries=True) for piece in entries), *records]


def cut_rows(root: Root, path: str) -> list[Piece]:
    """The pieces of a parquet file, each of some row groups; empty if it is small, or another kind of file."""
    with root.open_input(path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size < 2 * _PIECE_BYTES or file.read(len(_PARQUET_MARK)) != _PARQUET_MARK:
            return []
    pieces: list[Piece] = []
    first = held = 0
    for number, (rows, packed) in enumerate(value_apart(root, path, parquet_groups_of)):
        if not pieces or held >= _PIECE_BYTES:
            pieces.append(replace(whole(path), start=number, first=first))
            held = 0
        pieces[-1] = replace(pieces[-1], end=number + 1)
        first, held = first + rows, held + packed
    return pieces


def whole(path: str) -> Piece:
    """The piece that is a whole file."""
    return Piece(paths=(path,))


def grouped(root: Root, pieces: Iterable[Piece]) -> list[Piece]:
    """``pieces``, with consecutive small files joined into pieces of about `_GROUP_BYTES`."""
    groups: list[Piece] = []
    size = _GROUP_BYTES
    for piece in pieces:
        if piece.end is not None:
            groups.append(piece)
            size = _GROUP_BYTES
            continue
        if size >= _GROUP_BYTES:
            groups.append(piece)
            size = 0
        else:
            groups[-1] = replace(piece, paths=groups[-1].paths + piece.paths)
        size += _size(root, piece.paths[0])
    return groups


def _size(root: Root, path: str) -> int:
    try:
        return root.size(path)
    except RejectedError:  # reading it will say what is wrong
        return 0


def _cut(
    root: Root, path: str, starts: _Starts | None = None, opened: Callable[[Root, str], BinaryIO] = open_text
) -> list[Piece]:
    """The pieces that begin at ``starts``; None: at elements if the file is an array, else at lines."""
    with opened(root, path) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size < 2 * _PIECE_BYTES:
            return [whole(path)]
        array = starts is None and is_array(file)
        found = list((starts or (_starts_in_array if array else _starts_of_lines))(file, path))
    return [
        replace(whole(path), start=start, end=end, first=first, is_array=array)
        for (first, start), (_, end) in pairwise([*found, (0, size)])
        if start < end
    ] or [whole(path)]


def _starts_in_array(file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    cursor = JsonCursor(file, path)
    yield from _starts_of_elements(cursor)
    cursor.finish()


def _starts_in_list(name: bytes, file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    cursor = JsonCursor(file, path)
    for key in cursor.members():
        if key.raw == name and cursor.peek() == b"[":
            yield from _starts_of_elements(cursor)
        else:
            cursor.value(keep_bytes=0)
    cursor.finish()


def _starts_in_object(name: bytes, file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    cursor = JsonCursor(file, path)
    if not name:
        yield from _starts_of_members(cursor)
    for key in cursor.members() if name else ():
        if key.raw == name:
            yield from _starts_of_members(cursor)
        else:
            cursor.value(keep_bytes=0)
    cursor.finish()


def _starts_of_elements(cursor: JsonCursor) -> Iterator[tuple[int, int]]:
    last = -_PIECE_BYTES  # so that each list begins a piece
    for index in cursor.elements():
        cursor.peek()
        if cursor.offset - last >= _PIECE_BYTES:
            last = cursor.offset
            yield index, last
        pass_elements(cursor, _PIECE_BYTES // 64)


def _starts_of_members(cursor: JsonCursor) -> Iterator[tuple[int, int]]:
    last = -_PIECE_BYTES
    for _ in cursor.entries():
        cursor.peek()
        if cursor.offset - last >= _PIECE_BYTES:
            last = cursor.offset
            yield 0, last
        pass_members(cursor, _PIECE_BYTES // 64)


def _starts_of_lines(file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
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
