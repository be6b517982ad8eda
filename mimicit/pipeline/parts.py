"""Tables on disk: an Arrow IPC file that appears whole under its name, and random access to its cells by memory map.

A table under its final name is done: a resumed build checks nothing else. Reading takes no memory but the pages that
are touched, and about half a microsecond per cell.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import accumulate, islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mimicit.pipeline.disk import naming, scratch
from mimicit.shards.files import publish
from mimicit.sources.containers.arrow import give_back

_BATCH_ROWS: Final = 1 << 14
_BATCH_BYTES: Final = 32 << 20  # of texts; a batch is held in memory while it is written

T = TypeVar("T")


def write_columns(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write ``batches`` as the table ``path``; it appears whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with naming(path), publish(path, scratch(path)) as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(batch)


def batches_of_rows(rows: Iterable[Sequence[Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """``rows``, each with a value per column of ``schema``, as batches of bounded rows and bytes."""
    waiting: list[Sequence[Any]] = []
    size = 0
    sized = _sized_columns(schema)
    for row in rows:
        waiting.append(row)
        for place in sized:
            if value := row[place]:
                size += len(value)
        if len(waiting) == _BATCH_ROWS or size > _BATCH_BYTES:
            yield _batch(waiting, schema)
            waiting, size = [], 0
    if waiting:
        yield _batch(waiting, schema)


class TableWriter:
    """Takes the rows of a table one by one; the table ``path`` appears whole when the block ends without an error.

    With ``skip_empty``, no file is written for a table without rows.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, skip_empty: bool = False) -> None:
        self._path = path
        self._schema = schema
        self._skip_empty = skip_empty
        self._sized = _sized_columns(schema)
        self._waiting: list[Sequence[Any]] = []
        self._size = 0
        self._batches: list[pa.RecordBatch] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._held = ExitStack()
        self.rows = 0

    def add(self, row: Sequence[Any]) -> None:
        """Append a row: a value per column of the schema."""
        self._waiting.append(row)
        self._size += sum(len(row[place] or ()) for place in self._sized)
        self.rows += 1
        if len(self._waiting) == _BATCH_ROWS or self._size > _BATCH_BYTES:
            self._write()

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        """Append rows, given as the columns of the schema. No others may be added by `add`."""
        batch = _batch_of(columns, self._schema)
        self._batches.append(batch)
        self._size += batch.nbytes
        self.rows += batch.num_rows
        if sum(batch.num_rows for batch in self._batches) >= _BATCH_ROWS or self._size > _BATCH_BYTES:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._batches.append(_batch(self._waiting, self._schema))
        self._begin().write_batch(pa.concat_batches(self._batches))
        self._waiting, self._batches, self._size = [], [], 0

    def _begin(self) -> pa.RecordBatchFileWriter:
        if self._writer is None:
            self._path.parent.mkdir(exist_ok=True)
            self._held.enter_context(naming(self._path))
            file = self._held.enter_context(publish(self._path, scratch(self._path)))
            self._writer = self._held.enter_context(pa.ipc.new_file(file, self._schema))
        return self._writer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._held.__exit__(kind, error, trace)
            return
        with self._held:
            if self._waiting or self._batches:
                self._write()
            elif not self._skip_empty:
                self._begin()


def _sized_columns(schema: pa.Schema) -> list[int]:
    """The columns whose cells have a length."""
    fixed = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_fixed_size_binary)
    return [place for place, field in enumerate(schema) if not any(test(field.type) for test in fixed)]


def _batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    return _batch_of(list(zip(*rows, strict=True)), schema)


def _batch_of(columns: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


class ColumnFile:
    """One table on disk, for reading single cells; the file stays mapped for as long as this lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._file = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self._mapped)))
        self._batches = [self._file.get_batch(number) for number in range(self._file.num_record_batches)]
        self._starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))
        self.rows = self._starts.pop()
        # The chunks of a column, one per batch. They do not refer to this object, so its last use closes the file.
        self._numbers = cache(partial(_number_chunks, self._batches))
        self._firsts = cache(partial(_first_numbers, self._batches))
        self._bytes = cache(partial(_byte_chunks, self._batches))
        self._lists = cache(partial(_list_chunks, self._batches))

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        names: list[str] = self._file.schema.names
        return names

    def type_of(self, name: str) -> pa.DataType:
        """The type of a column."""
        return self._file.schema.field(name).type

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table (or ``columns`` of it), mapped into memory."""
        table = pa.Table.from_batches(self._batches, self._file.schema)
        return table if columns is None else table.select(list(columns))

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of its first row, the batch) for each batch, mapped into memory until the next is taken."""
        for start, batch in zip(self._starts, self._batches, strict=True):
            yield start, batch
            self.give_back()

    def give_back(self) -> None:
        """Release the pages that were touched, which count as memory of this process; they are mapped again at need."""
        give_back(self._mapped)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A whole column of numbers or flags without nulls, in memory."""
        return np.concatenate([np.asarray(chunk) for chunk in self._numbers(name)] or [np.zeros(0, np.int64)])

    def numbers(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[rows]: the whole numbers of ``rows``, which may be in any order."""
        batches = np.searchsorted(self._starts, rows, "right") - 1
        found = np.zeros(len(rows), np.int64)
        for batch in np.unique(batches).tolist():
            here = batches == batch
            found[here] = np.asarray(self._numbers(name)[batch])[rows[here] - self._starts[batch]]
        return found

    def number(self, name: str, row: int) -> int:
        """A whole number."""
        batch = bisect_right(self._starts, row) - 1
        value: int = self._numbers(name)[batch][row - self._starts[batch]]
        return value

    def reader(self, name: str) -> Callable[[int], int]:
        """A function from a row to its whole number: the fastest way to read many that are mostly near each other."""
        chunks, starts = self._numbers(name), self._starts
        first, end, chunk = 0, 0, memoryview(b"")

        def number(row: int) -> int:
            nonlocal first, end, chunk
            if not first <= row < end:
                batch = bisect_right(starts, row) - 1
                first, chunk = starts[batch], chunks[batch]
                end = first + len(chunk)
            return chunk[row - first]

        return number

    def lower_bound(self, name: str, value: int) -> int:
        """The first row whose whole number is not less than ``value``, in a column that ascends."""
        batch = max(0, bisect_left(self._firsts(name), value) - 1)
        return self._starts[batch] + bisect_left(self._numbers(name)[batch], value) if self.rows else 0

    def text_reader(self, name: str) -> Callable[[int], str]:
        """A function from a row to its text, as `reader`."""
        chunks, starts = self._bytes(name), self._starts
        first, end, (offsets, data) = 0, 0, (memoryview(b""), memoryview(b""))

        def text(row: int) -> str:
            nonlocal first, end, offsets, data
            if not first <= row < end:
                batch = bisect_right(starts, row) - 1
                first, (offsets, data) = starts[batch], chunks[batch]
                end = first + len(offsets) - 1
            place = row - first
            return str(data[offsets[place] : offsets[place + 1]], "utf-8")

        return text

    def take(self, names: Sequence[str], rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """The columns ``names`` of ``rows`` (ascending, at least one), in memory."""
        return pa.concat_batches(list(self.taken(names, rows)))

    def taken(self, names: Sequence[str], rows: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """As `take`, in batches, each from one batch of the table; releases the memory that it has mapped."""
        for batch, places in self._by_batch(rows):
            yield self._batches[batch].select(names).take(pa.array(places))
            self.give_back()

    def bytes_of(self, names: Sequence[str], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64[rows]: how many bytes the texts ``names`` of ``rows``, which ascend, take together."""
        found = np.zeros(len(rows), np.int64)
        done = 0
        for batch, places in self._by_batch(rows):
            for name in names:
                offsets = np.asarray(self._bytes(name)[batch][0])
                found[done : done + len(places)] += offsets[places + 1] - offsets[places]
            done += len(places)
        return found

    def has_bytes(self, name: str) -> bool:
        """Whether any cell of a column of texts is not empty."""
        return any(offsets[len(offsets) - 1] > offsets[0] for offsets, _ in self._bytes(name))

    def has_integers(self, name: str) -> bool:
        """Whether any list of a column of lists is not empty."""
        return any(offsets[len(offsets) - 1] > offsets[0] for offsets, _ in self._lists(name))

    def _by_batch(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """(number of a batch, places in it) for all ``rows``, which ascend."""
        cuts = np.searchsorted(rows, [*self._starts, self.rows]).tolist()
        for batch, (first, end) in enumerate(pairwise(cuts)):
            if first < end:
                yield batch, rows[first:end] - self._starts[batch]

    def view(self, name: str, row: int) -> memoryview:
        """Bytes, or a text as UTF-8, in the mapped file, not copied."""
        batch = bisect_right(self._starts, row) - 1
        offsets, data = self._bytes(name)[batch]
        place = row - self._starts[batch]
        return data[offsets[place] : offsets[place + 1]]

    def data(self, name: str, row: int) -> bytes:
        """Bytes, or a text as UTF-8; empty for null."""
        return bytes(self.view(name, row))

    def text(self, name: str, row: int) -> str:
        """A text; empty for null."""
        return str(self.view(name, row), "utf-8")

    def integers(self, name: str, row: int) -> list[int]:
        """A list of whole numbers."""
        batch = bisect_right(self._starts, row) - 1
        offsets, values = self._lists(name)[batch]
        place = row - self._starts[batch]
        first, end = offsets[place], offsets[place + 1]
        found: list[int] = values[first:end].tolist() if first < end else []
        return found

    def value(self, name: str, row: int) -> Any:
        """Any cell as a Python value, ``None`` for null; slower than the other methods."""
        batch = bisect_right(self._starts, row) - 1
        return self._batches[batch].column(name)[row - self._starts[batch]].as_py()


def numbered(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """``columns`` of the batches of the table ``path``, after a column ``n`` with the numbers of the rows.

    Holds one batch at a time and maps nothing, since mapped pages count as memory of the process.
    """
    first = 0
    with pa.OSFile(str(path)) as file:
        schema = pa.ipc.open_file(file).schema
        fields = sorted(schema.get_field_index(name) for name in columns)
        reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            numbers = pa.array(np.arange(first, first + batch.num_rows))
            yield pa.record_batch([numbers, *(batch.column(name) for name in columns)], ["n", *columns])
            first += batch.num_rows


_Bytes: TypeAlias = tuple[memoryview, memoryview]
"""The offsets of the cells of a batch, and all their bytes."""


def _number_chunks(batches: Sequence[pa.RecordBatch], name: str) -> list[memoryview]:
    return [_view(batch.column(name)) for batch in batches]


def _first_numbers(batches: Sequence[pa.RecordBatch], name: str) -> list[int]:
    return [batch.column(name)[0].as_py() for batch in batches]


def _byte_chunks(batches: Sequence[pa.RecordBatch], name: str) -> list[_Bytes]:
    return [_offsets_and_data(batch.column(name)) for batch in batches]


def _list_chunks(batches: Sequence[pa.RecordBatch], name: str) -> list[tuple[memoryview, memoryview]]:
    columns = [batch.column(name) for batch in batches]
    return [(_view(column.offsets), _view(column.values)) for column in columns]


def _view(column: pa.Array) -> memoryview:
    """The numbers of ``column``: indexing a view gives Python numbers, in half the time that an array takes."""
    return memoryview(column.to_numpy(zero_copy_only=False))


def _offsets_and_data(column: pa.Array) -> _Bytes:
    _, offsets, data = column.buffers()  # of a column of large_string or large_binary
    return memoryview(offsets).cast("B").cast("q"), memoryview(b"" if data is None else data)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
