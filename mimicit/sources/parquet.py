"""Parquet files: their columns, their rows, and single cells, in bounded memory.

Memory is bounded by a file's pages and not by its row groups: pages are read through a small buffer. pyarrow costs
60 MB and a quarter of a second to import, so it is imported where a parquet file has been met.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.arrow import picked
from mimicit.sources.base import InParquet
from mimicit.sources.root import Root

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["ParquetCells", "parquet_batches", "parquet_columns", "parquet_rows"]

_BUFFER_BYTES: Final = 1 << 20
_TEXT_ROWS: Final = 1024
_CELL_ROWS: Final = 16
_OPEN_COLUMNS: Final = 8


def parquet_columns(root: Root, path: str) -> dict[str, str]:
    """The type of each column, as Arrow names it (``string``, ``list<element: string>``, ...)."""
    with root.open(path) as file, _damage(path):
        return {field.name: str(field.type) for field in _opened(file).schema_arrow}


def parquet_batches(root: Root, path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[int, int, pa.RecordBatch]]:
    """(row group, its first row, rows) of small batches of the leaf columns whose dotted names are ``wanted``.

    A leaf of a nested column, such as ``image.path``, is read without its neighbours.
    """
    with root.open_input(path) as file:
        with _damage(path):
            parquet = _opened(file)
            leaves = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
            groups = parquet.num_row_groups
        for group in range(groups):
            row = 0
            for batch in _batches(file, path, group, list(filter(wanted, leaves)), _TEXT_ROWS):
                yield group, row, batch
                row += len(batch)


def parquet_rows(root: Root, path: str, columns: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(row group, row in it, values of ``columns``) of every row, in order. `SourceError` where the file is damaged."""
    with root.open_input(path) as file:
        with _damage(path):
            groups = _opened(file).num_row_groups
        for group in range(groups):
            row = 0
            for batch in _batches(file, path, group, columns, _TEXT_ROWS):
                for values in batch.to_pylist():
                    yield group, row, values
                    row += 1


class ParquetCells:
    """Reads single cells. Rows of a column in rising order cost one pass; a step back starts its row group again."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._columns: OrderedDict[tuple[str, int, str], _OpenColumn] = OrderedDict()

    def read(self, place: InParquet) -> Any:
        """The value of the cell; `RejectedError` where the file has no such cell or is damaged there."""
        key = (place.path, place.row_group, place.column)
        column = self._columns.pop(key, None)
        if column is not None and place.row < column.first_row:
            column.close()
            column = None
        try:
            column = column or _OpenColumn(self._root, place)
            self._columns[key] = column
            value = column.value(place.row, place.item)
        except SourceError as error:
            raise RejectedError("bad_media", str(error)) from None
        if len(self._columns) > _OPEN_COLUMNS:
            self._columns.popitem(last=False)[1].close()
        return value

    def close(self) -> None:
        """Close all files."""
        for column in self._columns.values():
            column.close()
        self._columns.clear()


class _OpenColumn:
    """One column of one row group, read forwards."""

    def __init__(self, root: Root, place: InParquet) -> None:
        self._path = place.path
        self._file = root.open(place.path)
        self._batches = _batches(self._file, place.path, place.row_group, [place.column], _CELL_ROWS)
        self._values: pa.Array | None = None
        self.first_row = 0

    def value(self, row: int, item: int | None) -> Any:
        while self._values is None or row >= self.first_row + len(self._values):
            self.first_row += 0 if self._values is None else len(self._values)
            self._values = None
            batch = next(self._batches, None)
            if batch is None:
                raise SourceError(f"{self._path}: the row group has {self.first_row} rows, and no row {row}")
            self._values = batch.column(0)
        with _damage(self._path):
            return picked(self._values, row - self.first_row, item)

    def close(self) -> None:
        self._file.close()


def _opened(file: BinaryIO) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _batches(file: BinaryIO, path: str, row_group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    with _damage(path):
        parquet = _opened(file)
        leaves = {parquet.schema.column(number).path for number in range(len(parquet.schema))}
        absent = [column for column in columns if column not in leaves and column not in parquet.schema_arrow.names]
        if absent or row_group >= parquet.num_row_groups:
            raise SourceError(f"{path}: no column {absent[0]!r}" if absent else f"{path}: no row group {row_group}")
        yield from parquet.iter_batches(rows, row_groups=[row_group], columns=list(columns), use_threads=False)


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """Turn whatever pyarrow raises on damaged bytes into a `SourceError` that names the file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SourceError(f"{path}: damaged parquet file: {str(error)[:300]}") from None
