"""The records of a CSV file with a header line, as programs and spreadsheets write it.

Cells are separated by commas, semicolons or tabs: by those that split the header into the most names, or that a first
line ``sep=;`` names; by bars if none of these splits it. Quotes are as in RFC 4180. Lines may end as on any system.
The captions of Flickr8k and Flickr30k have no header: ``1.jpg#0``, a tab, and a caption in each line.
Columns without a name at the right end (a spreadsheet's) or on the left (the row numbers of a data frame) are left out.

A row with too many or too few cells, or with stray text after a quote, costs only itself. A quote that is never
closed swallows the rest of the file, so it is a `SourceError` that names the line it begins on.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Final, TextIO

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.containers.unpacked import open_text
from mimicit.sources.files.root import Root
from mimicit.sources.items import InText, Piece, Row
from mimicit.sources.records.text import is_unicode

_MAX_LINE_CHARACTERS: Final = 8 << 20
_MAX_COLUMNS: Final = 1000
_LINES_PER_BLOCK: Final = 4096
_DELIMITERS: Final = ("\t", ",", ";")  # of two that split a header alike, the first
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([,;|\t])"?\s*')
_CAPTION_LINE: Final = re.compile(r"[^\t\n]{1,1024}\.[A-Za-z]{3,4}#[0-9]\t")


@dataclass(frozen=True, slots=True)
class _Header:
    """The names of the columns from the ``first`` one on; the rows begin after ``lines`` lines, at the byte ``end``.

    Without any such line, the rows are captions of Flickr8k, and no cell is in quotes.
    """

    columns: list[str]
    first: int
    delimiter: str
    lines: int
    end: int


def csv_columns(head: bytes) -> list[str]:
    """The names of the columns of a CSV file whose text begins with ``head``; empty if it has no usable header."""
    with _as_text(io.BytesIO(head)) as text:
        return _read_header(text).columns


def csv_rows(root: Root, path: str, piece: Piece | None = None) -> Iterator[Row]:
    """The rows of the file at ``path``, or of a ``piece`` of it, as text by column; an empty cell is None.

    Places are ``path:line``. Rows without any text are left out. `SourceError` if there is no header, a quote stays
    open, or a line is endless.
    """
    with open_text(root, path) as file:
        header = _header_of(file, path)
        first, start, end = header.lines, header.end, None
        if piece is not None and piece.end is not None:
            first, start, end = piece.first, piece.start, piece.end
        file.seek(start)
        with _as_text(file, "utf-8") as text:
            yield from _rows(_Lines(text, path, first, start, end), header, path)


def csv_starts(piece_bytes: int, file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    """(lines before it, byte) of the first row of each piece, of about ``piece_bytes``, of an open CSV file.

    Costs a pass of the parser that reads the rows, because only that tells which line ends are inside a cell.
    `SourceError` as `csv_rows`.
    """
    header = _header_of(file, path)
    number, start = header.lines, header.end
    offset = file.seek(start)
    yield number, start

    def lines() -> Iterator[str]:
        nonlocal number, offset
        while line := text.readline(_MAX_LINE_CHARACTERS + 1):
            number, offset = number + 1, offset + len(line)
            if len(line) > _MAX_LINE_CHARACTERS:
                raise _endless(path, number)
            yield line

    with _as_text(file, "latin-1") as text:  # a character is a byte; all that the parser looks for is ASCII
        reader = _reader(lines(), header)
        while True:
            try:
                for _ in reader:
                    if offset - start >= piece_bytes:
                        start = offset
                        yield number, start
                return
            except csv.Error as error:
                if not _costs_a_row(error):
                    raise SourceError(f"{path}:{number}: {error}") from None


class _Lines:
    """The lines of a table one by one, up to the byte ``end``; ``number`` of them come before ``offset``.

    ``text`` is what was read since `begin`, at ``offset`` in the file.
    """

    def __init__(self, file: TextIO, path: str, number: int, offset: int, end: int | None) -> None:
        self._file = file
        self._path = path
        self._next = offset
        self._end = end
        self._kept: list[str] = []
        self._blocks: list[str] = []  # of many lines each: a short line takes 40 times as much as its text
        self.number = number
        self.offset = offset

    @property
    def text(self) -> str:
        return "".join((*self._blocks, *self._kept))

    def begin(self) -> None:
        self._kept.clear()
        self._blocks.clear()
        self.offset = self._next

    def __iter__(self) -> Iterator[str]:
        while self._end is None or self._next < self._end:
            line = self._file.readline(_MAX_LINE_CHARACTERS + 1)
            if not line:
                return
            self.number += 1
            if len(line) > _MAX_LINE_CHARACTERS:
                raise _endless(self._path, self.number)
            self._next += _size(line)
            self._kept.append(line)
            if len(self._kept) == _LINES_PER_BLOCK:
                self._blocks.append("".join(self._kept))
                self._kept.clear()
            yield line


def _endless(path: str, number: int) -> SourceError:
    return SourceError(f"{path}:{number}: the line is longer than {_MAX_LINE_CHARACTERS} characters")


def _size(text: str) -> int:
    """The bytes that ``text`` was read from."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def _reader(lines: Iterator[str], header: _Header) -> Iterator[list[str]]:
    csv.field_size_limit(_MAX_LINE_CHARACTERS)  # a picture as text is longer than the 128 KiB that Python allows
    if header.lines:
        return csv.reader(lines, delimiter=header.delimiter, strict=True)
    return csv.reader(lines, delimiter=header.delimiter, quoting=csv.QUOTE_NONE, strict=True)


def _costs_a_row(error: csv.Error) -> bool:
    """Whether the parser goes on with the next line."""
    return "expected after" in str(error)


def _rows(lines: _Lines, header: _Header, path: str) -> Iterator[Row]:
    columns = header.columns
    reader = _reader(iter(lines), header)
    while True:
        lines.begin()
        place = f"{path}:{lines.number + 1}"
        try:
            cells = next(reader)[header.first :]
        except StopIteration:
            return
        except csv.Error as error:
            if not _costs_a_row(error):
                raise SourceError(f"{place}: {error}; is a quote left open?") from None
            yield Row(place, RejectedError("malformed", str(error)))
            continue
        if not is_unicode("".join(cells)):
            yield Row(place, RejectedError("malformed", "the line is not UTF-8; save the table as UTF-8"))
        elif len(cells) >= len(columns) and not any(cells[len(columns) :]):
            if any(cells):
                if not header.lines:
                    cells[0] = cells[0].rsplit("#", 1)[0]
                row = {name: cell or None for name, cell in zip(columns, cells, strict=False)}
                yield Row(place, row, partial(_located, path, lines.offset, lines.text, row))
        elif cells:
            detail = f"{len(cells)} cells under {len(columns)} columns"
            if header.lines:
                detail += f"; a cell that holds {header.delimiter!r} needs quotes"
            yield Row(place, RejectedError("malformed", detail))


def _located(path: str, offset: int, text: str, row: Mapping[str, str | None], steps: Sequence[str | int]) -> InText:
    """Where the cell ``steps`` of ``row`` lies; the row is written as ``text`` at ``offset``."""
    cell = row.get(str(steps[0])) if len(steps) == 1 else None
    start = text.find(cell) if cell else -1
    if cell is None or start < 0:
        raise RejectedError("unsupported_media", "a picture as text must be a cell of its own")
    return InText(path, offset + _size(text[:start]), len(cell.encode()))


@contextmanager
def _as_text(file: BinaryIO, encoding: str = "utf-8-sig") -> Iterator[TextIO]:
    """The open ``file`` as text whose lines end as they are written; then the file is anywhere, and still open."""
    # Bytes that are not UTF-8 become lone surrogates, so that they cost their own row and not the whole file.
    text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
    try:
        yield text
    finally:
        text.detach()


def _header_of(file: BinaryIO, path: str) -> _Header:
    """The header of an open ``file``; `SourceError` if there is none."""
    marked = file.read(len(BOM_UTF8)) == BOM_UTF8
    file.seek(0)
    with _as_text(file) as text:
        header = _read_header(text)
    if not header.columns:
        raise SourceError(f"{path}:1: no header with distinct column names in UTF-8")
    return replace(header, end=header.end + len(BOM_UTF8) * marked)


def _read_header(text: TextIO) -> _Header:
    before, line = "", text.readline(_MAX_LINE_CHARACTERS)
    named = _SEPARATOR_LINE.fullmatch(line)
    if named:
        before, line = line, text.readline(_MAX_LINE_CHARACTERS)
    if _CAPTION_LINE.match(line):
        return _Header(["image", "caption"], 0, "\t", lines=0, end=0)
    delimiters = (named[1],) if named else _DELIMITERS
    delimiter = max(delimiters, key=lambda candidate: len(_names(line, candidate)))
    if not named and "|" in line and len(_names(line, delimiter)) < 2:  # a name may hold bars: ``tags|en|de``
        delimiter = "|"
    names = _names(line, delimiter)
    while names and not names[-1]:
        names.pop()
    first = 1 if len(names) > 1 and not names[0] else 0
    columns = names[first:]
    usable = len(set(columns)) == len(columns) <= _MAX_COLUMNS and all(columns) and is_unicode("".join(columns))
    return _Header(columns if usable else [], first, delimiter, lines=2 if named else 1, end=_size(before + line))


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error:
        return []
