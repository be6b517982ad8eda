"""The records of a CSV file with a header line, as programs and spreadsheets write it.

Between cells stands a comma, a semicolon or a tab: the one that splits the header into most names, or the one that a
first line ``sep=;`` names. Quotes are as in RFC 4180. The text is UTF-8, or UTF-16 with its byte order mark; lines may
end as on any system. Columns without a name at the right end (a spreadsheet's) or on the left (the row numbers of a
data frame) are left out.

A row with too many or too few cells, or with stray text after a quote, costs only itself. A quote that is never
closed swallows the rest of the file, so it is a `SourceError` that names the line it begins on.
"""

from __future__ import annotations

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, TextIO

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.base import Row
from mimicit.sources.root import Root
from mimicit.sources.text import is_unicode

__all__ = ["csv_columns", "csv_rows"]

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
    """The names of the columns of a CSV file that begins with ``head``; empty where it has no usable header."""
    try:
        return _read_header(_as_text(io.BytesIO(head), head[:2])).columns
    except UnicodeDecodeError:
        return []


def csv_rows(root: Root, path: str) -> Iterator[Row]:
    """The rows of the file at ``path`` as text by column; an empty cell is None. Places are ``path:line``.

    A row without any text is none. `SourceError` where there is no header, a quote stays open, or a line is endless.
    """
    with root.open_input(path) as file:
        mark = file.read(2)
        file.seek(0)
        try:
            with _as_text(file, mark) as text:
                yield from _rows(text, path)
        except UnicodeDecodeError as error:
            raise SourceError(f"{path}: not {error.encoding} ({error.reason}); save the table as UTF-8") from None


def _rows(text: TextIO, path: str) -> Iterator[Row]:
    header = _read_header(text)
    if not header.columns:
        raise SourceError(f"{path}:1: no header with distinct column names in UTF-8")
    columns = header.columns
    reader = csv.reader(_lines(text, path, header.lines), delimiter=header.delimiter, strict=True)
    while True:
        place = f"{path}:{reader.line_num + header.lines + 1}"
        try:
            cells = next(reader)[header.first :]
        except StopIteration:
            return
        except csv.Error as error:
            if "expected after" not in str(error):
                raise SourceError(f"{place}: {error}; is a quote left open?") from None
            yield place, RejectedError("malformed", str(error))
            continue
        if not is_unicode("".join(cells)):
            yield place, RejectedError("malformed", "the line is not UTF-8; save the table as UTF-8")
        elif len(cells) >= len(columns) and not any(cells[len(columns) :]):
            if any(cells):
                yield place, {name: cell or None for name, cell in zip(columns, cells, strict=False)}
        elif cells:
            what = f"{len(cells)} cells under {len(columns)} columns"
            yield place, RejectedError("malformed", f"{what}; a cell that holds {header.delimiter!r} needs quotes")


def _as_text(file: BinaryIO, mark: bytes) -> TextIO:
    """``file``, whose first two bytes are ``mark``, as text whose lines end as they are written."""
    if mark in (BOM_UTF16_LE, BOM_UTF16_BE):
        return io.TextIOWrapper(file, "utf-16", errors="surrogatepass", newline="")
    # What is not UTF-8 becomes half surrogates, so that it costs its own row and not the whole file.
    return io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")


def _read_header(text: TextIO) -> _Header:
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


def _lines(text: TextIO, path: str, number: int) -> Iterator[str]:
    while line := text.readline(_MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > _MAX_LINE_CHARACTERS:
            raise SourceError(f"{path}:{number}: the line is longer than {_MAX_LINE_CHARACTERS} characters")
        yield line
