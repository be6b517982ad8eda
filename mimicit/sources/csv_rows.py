"""The records of a CSV file with a header line (TSV where that holds a tab): UTF-8, quotes as in RFC 4180.

A row with too many or too few cells, or with stray text after a quote, costs only itself. A quote that is never
closed swallows the rest of the file, so it is a `SourceError` that names the line it begins on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.base import Row
from mimicit.sources.root import Root
from mimicit.sources.text import is_unicode

__all__ = ["csv_columns", "csv_rows"]

_MAX_LINE_BYTES: Final = 8 << 20
_MAX_COLUMNS: Final = 1000


def csv_columns(header: bytes) -> list[str]:
    """The names in the first line of a CSV file; empty where they are no usable header."""
    try:
        line = header.decode("utf-8-sig")
        names = next(csv.reader([line], delimiter=_delimiter(line), strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return []
    names = [name.strip() for name in names]
    return names if len(set(names)) == len(names) <= _MAX_COLUMNS and all(names) else []


def csv_rows(root: Root, path: str) -> Iterator[Row]:
    """The rows of the file at ``path`` as text by column; an empty cell is None. Places are ``path:line``."""
    with root.open_input(path) as file:
        header = file.readline(_MAX_LINE_BYTES)
        columns = csv_columns(header)
        if not columns:
            raise SourceError(f"{path}:1: no header with distinct column names")
        reader = csv.reader(_lines(file, path), delimiter=_delimiter(header.decode("utf-8-sig")), strict=True)
        while True:
            number = reader.line_num + 2
            place = f"{path}:{number}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "expected after" not in str(error):
                    raise SourceError(f"{place}: {error}; is a quote left open?") from None
                yield place, RejectedError("malformed", str(error))
                continue
            if not is_unicode("".join(cells)):
                yield place, RejectedError("malformed", "the line is not UTF-8")
            elif len(cells) == len(columns):
                yield place, {name: cell or None for name, cell in zip(columns, cells, strict=True)}
            elif cells:
                yield place, RejectedError("malformed", f"{len(cells)} cells under {len(columns)} columns")


def _delimiter(header: str) -> str:
    return "\t" if "\t" in header else ","


def _lines(file: BinaryIO, path: str) -> Iterator[str]:
    number = 1
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise SourceError(f"{path}:{number}: the line is longer than {_MAX_LINE_BYTES} bytes")
        # What is not UTF-8 becomes half surrogates, so that it costs its own row and not the whole file.
        yield line.decode("utf-8", "surrogateescape")
