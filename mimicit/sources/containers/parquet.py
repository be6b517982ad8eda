"""Parquet files: their columns, their rows, and single cells, in bounded memory.

Rows are read in another process (see `mimicit.sources.containers.table_process`). Cells are read in the process that
decodes their pictures, under a memory limit of their own: pages are read through a small buffer, and the columns that
stay open hold at most `_OPEN_BYTES`. (A writer puts 1,024 pictures on a page, which may be 100 MB; pyarrow needs it
packed and unpacked, and a dictionary of that size.) pyarrow costs 60 MB and a quarter of a second to import, so it is
imported only when a parquet file is met.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from mimicit.errors import RejectedError, SourceError
from mimicit.media.bounds import memory_limit
from mimicit.sources.containers.arrow import arrow_damage, picked
from mimicit.sources.containers.table_process import (
    MAX_ROWS_PER_BYTE,
    MAX_TABLE_BYTES,
    Place,
    check_columns,
    column_types,
    rows_apart,
    value_apart,
)
from mimicit.sources.files.root import Root
from mimicit.sources.items import InParquet, Piece

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_T = TypeVar("_T")

_BUFFER_BYTES: Final = 1 << 20
_BUFFERS_BYTES: Final = 64 << 20  # of all columns together
_LEAST_BUFFER: Final = 4 << 10
_VALUES_AT_ONCE: Final = 100_000  # of all columns together
_BATCH_BYTES: Final = 32 << 20  # of rows that are about as large as the mean, or a single larger one
_CELL_ROWS: Final = 256
_CELL_BYTES: Final = 1 << 20  # of a column that are unpacked in one go, about; or a single cell
_OPEN_BYTES: Final = 64 << 20  # of the columns that are open, or a single larger one
_OPEN_COLUMNS: Final = 64
_MAX_LEAVES: Final = 4_000  # fields of all columns, of which most tables have some tens


def parquet_columns(root: Root, path: str) -> dict[str, str]:
    """The type of each column, as Arrow names it (``string``, ``list<element: string>``, ...)."""
    return value_apart(root, path, parquet_columns_of)


def parquet_rows(
    root: Root, path: str, columns: Sequence[str], piece: Piece | None = None
) -> Iterator[tuple[int, int, int, dict[str, Any] | RejectedError]]:
    """(number in the table, row group, row in it, values of ``columns``, or why there are none) of every row, in order.

    With a ``piece`` of some row groups, only theirs. `SourceError` if the file is damaged.
    """
    return parquet_rows_by(root, path, piece, _rows, tuple(columns))


def parquet_rows_by(
    root: Root, path: str, piece: Piece | None, read: Callable[..., Iterator[tuple[int, int, _T]]], *arguments: object
) -> Iterator[tuple[int, int, int, _T | RejectedError]]:
    """As `parquet_rows`, with the values that ``read(file, path, *arguments, end, at_once, start)`` makes.

    ``read`` must stop before the row group ``end``; None: it reads all. For the rest see `rows_apart`.
    """
    begin, end, number = (0, None, 0) if piece is None else (piece.start, piece.end, piece.first)
    has_gap = False
    for group, row, value in rows_apart(root, path, read, *arguments, end, start=(begin, 0)):
        if has_gap:  # at most a few times in a table
            number = sum(rows for rows, _ in value_apart(root, path, parquet_groups_of)[:group]) + row
        yield number, group, row, value
        number += 1
        # What was too much is left out, with all that follows in its row group; too long a row is only itself.
        has_gap = isinstance(value, RejectedError) and value.reason == "too_much_memory"


def parquet_groups_of(file: BinaryIO, path: str) -> list[tuple[int, int]]:
    """(rows, bytes in the file) of each row group."""
    with _opened(file, path) as parquet, arrow_damage(path, "parquet file"):
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        return [
            (group.num_rows, sum(group.column(number).total_compressed_size for number in range(group.num_columns)))
            for group in groups
        ]


def parquet_batches(
    file: BinaryIO,
    path: str,
    wanted: Callable[[str, int | None], bool],
    at_once: int,
    start: Place,
    end: int | None = None,
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(row group, its first row, rows) of small batches of the leaf columns that are ``wanted``.

    ``wanted`` gets the dotted name of a leaf, and how many nulls it has (None: the file does not say). A leaf of a
    nested column, such as ``image.path``, is read without its neighbours. For a process of its own: see
    `parquet_rows_by`, also for ``at_once``, ``start`` and ``end``.
    """
    with _opened(file, path) as parquet:
        _check_leaves(parquet)
        groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
        leaves: list[str] = []
        size = 0
        for number in range(len(parquet.schema)):
            chunks = [group.column(number) for group in groups]
            counts = [chunk.statistics.null_count if chunk.statistics else None for chunk in chunks]
            nulls = None if None in counts else sum(count or 0 for count in counts)
            if wanted(parquet.schema.column(number).path, nulls):
                leaves.append(parquet.schema.column(number).path)
                size += sum(chunk.total_uncompressed_size for chunk in chunks)
        most = _BATCH_BYTES * parquet.metadata.num_rows // max(1, size)
        yield from _batches_from(file, parquet, path, leaves, max(1, min(at_once, most)), start, end)


def parquet_columns_of(file: BinaryIO, path: str) -> dict[str, str]:
    """As `parquet_columns`, for the open ``file``."""
    with _opened(file, path) as parquet, arrow_damage(path, "parquet file"):
        return column_types(parquet.schema_arrow, path)


def _rows(
    file: BinaryIO, path: str, columns: Sequence[str], end: int | None, at_once: int, start: Place
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    check_columns(len(columns))
    with _opened(file, path) as parquet:
        _check_leaves(parquet)
        for group, first, batch in _batches_from(file, parquet, path, columns, at_once, start, end):
            with arrow_damage(path, "parquet file"):
                rows = batch.to_pylist()  # here text turns out not to be UTF-8
            for row, values in enumerate(rows, first):
                yield group, row, values


def _check_leaves(parquet: pq.ParquetFile) -> None:
    """Raise `RejectedError` if the columns hold more fields than `_MAX_LEAVES`; each takes pyarrow a millisecond."""
    leaves = parquet.metadata.num_columns
    if leaves > _MAX_LEAVES:
        detail = f"its columns hold {leaves:,} fields; the limit is {_MAX_LEAVES:,}; leave out those that say nothing"
        raise RejectedError("malformed", detail)


def _batches_from(
    file: BinaryIO,
    parquet: pq.ParquetFile,
    path: str,
    columns: Sequence[str],
    at_once: int,
    start: Place,
    end: int | None,
) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(row group, first row, rows) from ``start`` to the row group ``end``.

    What lies before ``start`` in its row group is read and dropped.
    """
    size = os.fstat(file.fileno()).st_size
    if parquet.metadata.num_rows > MAX_ROWS_PER_BYTE * size:
        detail = f"the table says that it has {parquet.metadata.num_rows:,} rows in {size:,} bytes"
        raise RejectedError("too_much_memory", detail)
    at_once = min(at_once, max(1, _VALUES_AT_ONCE // max(1, len(columns))))
    for group in range(start[0], parquet.num_row_groups if end is None else end):
        row, skipped = 0, start[1] if group == start[0] else 0
        for batch in _batches(parquet, path, group, columns, at_once):
            if row + len(batch) > skipped:
                yield group, max(row, skipped), batch.slice(max(0, skipped - row))
            row += len(batch)


class ParquetCells:
    """Reads single cells. Rows of a column in rising order cost one pass; a step back starts its row group again."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._columns: OrderedDict[tuple[str, int, str], _OpenColumn] = OrderedDict()
        self._too_large: dict[tuple[str, int, str], int] = {}  # the first row of a column that took too much

    def read(self, place: InParquet) -> Any:
        """The value of the cell; `RejectedError` if the file has no such cell or is damaged there."""
        key = (place.path, place.row_group, place.column)
        if place.row >= self._too_large.get(key, place.row + 1):
            raise _too_much(place)  # to get there again would take reading all before it again
        column = self._columns.pop(key, None)
        if column is not None and place.row < column.first_row:
            column.close()
            column = None
        try:
            if column is None:
                with memory_limit(MAX_TABLE_BYTES):
                    column = _OpenColumn(self._root, place)
                self._make_room(column.bytes)  # before its first page is read
            self._columns[key] = column
            with memory_limit(MAX_TABLE_BYTES):
                return column.value(place.row, place.item)
        except MemoryError:
            if key in self._columns:
                self._columns.pop(key).close()
            self._too_large[key] = place.row
            raise _too_much(place) from None
        except SourceError as error:
            raise RejectedError("bad_media", str(error)) from None

    def forget_changed(self) -> None:
        """Close the columns of files that have changed or were replaced since they were opened."""
        self._too_large.clear()
        for key, column in list(self._columns.items()):
            if not column.is_current(self._root):
                self._columns.pop(key).close()

    def close(self) -> None:
        """Close all files."""
        while self._columns:
            self._close_oldest()

    def _make_room(self, needed: int) -> None:
        while self._columns and (
            len(self._columns) >= _OPEN_COLUMNS
            or sum(column.bytes for column in self._columns.values()) + needed > _OPEN_BYTES
        ):
            self._close_oldest()

    def _close_oldest(self) -> None:
        import pyarrow as pa

        self._columns.popitem(last=False)[1].close()
        pa.default_memory_pool().release_unused()  # it would keep the pages for others of their size


def _too_much(place: InParquet) -> RejectedError:
    detail = f"{place.path}: reading the cell, or one before it, takes more than {MAX_TABLE_BYTES >> 20} MiB"
    return RejectedError("too_much_memory", detail)


class _OpenColumn:
    """One column of one row group, read forwards; ``bytes`` is its size when it is unpacked."""

    def __init__(self, root: Root, place: InParquet) -> None:
        self._path = place.path
        with ExitStack() as stack:
            self._file = stack.enter_context(root.open(place.path))
            parquet = stack.enter_context(_opened(self._file, place.path))
            with arrow_damage(place.path, "parquet file"):
                self.bytes, rows, has_dictionary = _extent(parquet, place)
            # Each row may be the one large entry of a dictionary, which the file holds once.
            least_row = self.bytes if has_dictionary else self.bytes // max(1, rows)
            at_once = min(max(1, _CELL_BYTES // max(1, least_row)), _CELL_ROWS)
            self._batches = _batches(parquet, place.path, place.row_group, [place.column], at_once)
            self._values: pa.Array | None = None
            self.first_row = 0
            self._opened = stack.pop_all()

    def value(self, row: int, item: int | tuple[str | int, ...] | None) -> Any:
        while self._values is None or row >= self.first_row + len(self._values):
            self.first_row += 0 if self._values is None else len(self._values)
            self._values = None
            batch = next(self._batches, None)
            if batch is None:
                raise SourceError(f"{self._path}: the row group has {self.first_row} rows, and no row {row}")
            self._values = batch.column(0)
        with arrow_damage(self._path, "parquet file"):
            return picked(self._values, row - self.first_row, item)

    def is_current(self, root: Root) -> bool:
        """Whether the path still leads to this file, and the file is as it was."""
        try:
            with root.open(self._path) as file:
                return _identity(file) == _identity(self._file)
        except RejectedError:
            return False

    def close(self) -> None:
        self._values = None
        self._batches.close()
        self._opened.close()


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _extent(parquet: pq.ParquetFile, place: InParquet) -> tuple[int, int, bool]:
    """(unpacked bytes of the column in its row group, rows of the group, whether the column has a dictionary).

    Zeros if there is no such row group.
    """
    if place.row_group >= parquet.num_row_groups:
        return 0, 0, False
    group = parquet.metadata.row_group(place.row_group)
    chunks = [group.column(number) for number in range(group.num_columns)]
    mine = [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{place.column}.")]
    has_dictionary = any(chunk.dictionary_page_offset is not None for chunk in mine)
    return sum(chunk.total_uncompressed_size for chunk in mine), group.num_rows, has_dictionary


@contextmanager
def _opened(file: BinaryIO, path: str) -> Iterator[pq.ParquetFile]:
    """The parquet file that is open as ``file``. pyarrow opens it again: through Python it would copy every page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        with arrow_damage(path, "parquet file"):
            source = stack.enter_context(pa.OSFile(f"/dev/fd/{file.fileno()}"))
            metadata = pq.read_metadata(source)
            buffer = max(_LEAST_BUFFER, min(_BUFFER_BYTES, _BUFFERS_BYTES // max(1, metadata.num_columns)))
            parquet = stack.enter_context(
                pq.ParquetFile(source, metadata=metadata, pre_buffer=False, buffer_size=buffer)
            )
        yield parquet


def _batches(
    parquet: pq.ParquetFile, path: str, row_group: int, columns: Sequence[str], rows: int
) -> Generator[pa.RecordBatch, None, None]:
    with arrow_damage(path, "parquet file"):
        leaves = {parquet.schema.column(number).path for number in range(len(parquet.schema))}
        absent = [column for column in columns if column not in leaves and column not in parquet.schema_arrow.names]
        if absent or row_group >= parquet.num_row_groups:
            raise SourceError(f"{path}: no column {absent[0]!r}" if absent else f"{path}: no row group {row_group}")
        yield from parquet.iter_batches(rows, row_groups=[row_group], columns=list(columns), use_threads=False)
