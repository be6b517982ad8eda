"""The records of a CSV file with a header line, as programs and spreadsheets write it.

Cells are separated by commas, semicolons or tabs: by those that split the header into the most names, or that a first
line ``sep=;`` names. Quotes are as in RFC 4180. Lines may end as on any system. Columns without a name at the right
end (a spreadsheet's) or on the left (the row numbers of a data frame) are left out.

A row with too many or too few cells, or with stray text after a quote, costs only itself. A quote that is never
closed swallows the rest of the file, so it is a `SourceError` that names the line it begins on.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final, TextIO

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.items import InText, Row
from mimicit.sources.records.text import is_unicode

_MAX_LINE_CHARACTERS: Final = 8 << 20
_MAX_COLUMNS: Final = 1000
_DELIMITERS: Final = ("\t", ",", ";")  # of two that split a header alike, the first
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;\t])"?\s*')


@dataclass(frozen=True, slots=True)
class _Header:
    """The names of the columns from the ``first`` one on, and how many ``lines`` stand before the rows."""

    columns: list[str]
    first: int
    delimiter: str
    lines: int


def csv_columns(head: bytes) -> list[str]:
    """The names of the columns of a CSV file whose text begins with ``head``; empty if it has no usable header."""
    return _read_header(_as_text(io.BytesIO(head))).columns


def csv_rows(root: Root, path: str) -> Iterator[Row]:
    """The rows of the file at ``path`` as text by column; an empty cell is None. Places are ``path:line``.

    Rows without any text are left out. `SourceError` if there is no header, a quote stays open, or a line is endless.
    """
    with open_text(root, path) as file:
        marked = file.read(len(BOM_UTF8)) == BOM_UTF8
        file.seek(0)
        with _as_text(file) as text:
            yield from _rows(_Lines(text, path, len(BOM_UTF8) if marked else 0), path)


class _Lines:
    """The lines of a table one by one; ``text`` is what was read since `begin`, at ``offset`` in the file."""

    def __init__(self, file: TextIO, path: str, offset: int) -> None:
        self._file = file
        self._path = path
        self._next = offset
        self._number = 0
        self._kept: list[str] = []
        self.offset = offset

    @property
    def text(self) -> str:
        return "".join(self._kept)

    def begin(self) -> None:
        self._kept.clear()
        self.offset = self._next

    def readline(self, most: int = _MAX_LINE_CHARACTERS + 1) -> str:
        line = self._file.readline(most)
        self._number += bool(line)
        self._next += len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))
        self._kept.append(line)
        return line

    def __iter__(self) -> Iterator[str]:
        while line := self.readline():
            if len(line) > _MAX_LINE_CHARACTERS:
                where = f"{self._path}:{self._number}"
                raise SourceError(f"{where}: the line is longer than {_MAX_LINE_CHARACTERS} characters")
            yield line


def _rows(lines: _Lines, path: str) -> Iterator[Row]:
    header = _read_header(lines)
    if not header.columns:
        raise SourceError(f"{path}:1: no header with distinct column names in UTF-8")
    columns = header.columns
    csv.field_size_limit(_MAX_LINE_CHARACTERS)  # a picture as text is longer than the 128 KiB that Python allows
    reader = csv.reader(iter(lines), delimiter=header.delimiter, strict=True)
    while True:
        lines.begin()
        place = f"{path}:{reader.line_num + header.lines + 1}"
        try:
            cells = next(reader)[header.first :]
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" not in str(error):
                raise SourceError(f"{place}: {error}; is a quote left open?") from None
            yield Row(place, RejectedError("malformed", str(error)))
            continue
        if not is_unicode("".join(cells)):
            yield Row(place, RejectedError("malformed", "the line is not UTF-8; save the table as UTF-8"))
        elif len(cells) >= len(columns) and not any(cells[len(columns) :]):
            if any(cells):
                row = {name: cell or None for name, cell in zip(columns, cells, strict=False)}
                yield Row(place, row, partial(_located, path, lines.offset, lines.text, row))
        elif cells:
            what = f"{len(cells)} cells under {len(columns)} columns"
            detail = f"{what}; a cell that holds {header.delimiter!r} needs quotes"
            yield Row(place, RejectedError("malformed", detail))


def _located(path: str, offset: int, text: str, row: Mapping[str, str | None], steps: Sequence[str | int]) -> InText:
    """Where the cell ``steps`` of ``row`` lies; the row is written as ``text`` at ``offset``."""
    cell = row.get(str(steps[0])) if len(steps) == 1 else None
    start = text.find(cell) if cell else -1
    if cell is None or start < 0:
        raise RejectedError("unsupported_media", "a picture as text must be a cell of its own")
    return InText(path, offset + len(text[:start].encode("utf-8", "surrogateescape")), len(cell.encode()))


def _as_text(file: BinaryIO) -> TextIO:
    """``file`` as text whose lines end as they are written."""
    # Bytes that are not UTF-8 become lone surrogates, so that they cost their own row and not the whole file.
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")


def _read_header(text: TextIO | _Lines) -> _Header:
    line = text.readline(_MAX_LINE_CHARACTERS)
    named = _SEPARATOR_LINE.fullmatch(line)
    if named:
        line = text.readline(_MAX_LINE_CHARACTERS)
    delimiters = (named[1],) if named else _DELIMITERS
    delimiter = max(delimiters, key=lambda candidate: len(_names(line, candidate)))
    names = _names(line, delimiter)
    while names and not names[-1]:
        names.pop()
    first = 1 if len(names) > 1 and not names[0] else 0
    columns = names[first:]
    usable = len(set(columns)) == len(columns) <= _MAX_COLUMNS and all(columns) and is_unicode("".join(columns))
    return _Header(columns if usable else [], first, delimiter, lines=2 if named else 1)


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error:
        return []
