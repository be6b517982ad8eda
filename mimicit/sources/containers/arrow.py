"""Arrow files, as `datasets` keeps them: their columns, their record batches, and single cells.

A file is mapped into memory rather than read, so a batch of pictures costs only the pages that are looked at, and these
are given back before there are many. Both the stream and the file format are read. Every column is checked before it is
used: otherwise offsets that point outside a damaged file would be followed.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from mimicit.errors import RejectedError, SourceError
from mimicit.media.bounds import memory_limit, want_of_memory
from mimicit.sources.containers.table_process import MAX_ROWS_PER_BYTE, MAX_TABLE_BYTES, column_types, value_apart
from mimicit.sources.files.root import Root
from mimicit.sources.items import InArrow

if TYPE_CHECKING:
    import pyarrow as pa

_FILE_MAGIC: Final = b"ARROW1"
_STREAM_MARK: Final = b"\xff\xff\xff\xff"
_STREAM_END: Final = _STREAM_MARK + bytes(4)
_OPEN_FILES: Final = 8
_MAPPED_BYTES: Final = 32 << 20  # of cells or batches read, until the pages of their file are given back


def is_arrow(path: str, head: bytes) -> bool:
    """Whether a file that begins with ``head`` is an Arrow file; a stream also needs the extension ``.arrow``."""
    return head.startswith(_FILE_MAGIC) or (path.lower().endswith(".arrow") and head.startswith(_STREAM_MARK))


def arrow_columns(root: Root, path: str) -> dict[str, str]:
    """The type of each column, as Arrow names it."""
    return value_apart(root, path, arrow_columns_of)


def arrow_columns_of(file: BinaryIO, path: str) -> dict[str, str]:
    """As `arrow_columns`, for the open ``file``."""
    with arrow_damage(path):
        return column_types(_opened(_mapped(file)).schema, path)


def arrow_batches(file: BinaryIO, path: str) -> Iterator[pa.RecordBatch]:
    """The record batches in order; `SourceError` if the file is damaged. Cells are mapped, not yet checked.

    For a process of its own: see `mimicit.sources.containers.table_process`.
    """
    with arrow_damage(path):
        mapped = _mapped(file)
        read_bytes = 0
        for batch in _batches(mapped, path):
            yield batch
            read_bytes += batch.get_total_buffer_size()
            if read_bytes > _MAPPED_BYTES:
                give_back(mapped)
                read_bytes = 0


def _batches(mapped: mmap.mmap, path: str) -> Iterator[pa.RecordBatch]:
    reader = _opened(mapped)
    rows = 0
    is_file = hasattr(reader, "num_record_batches")
    for batch in map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader:
        _check_whole(mapped, path)
        rows += len(batch)
        if rows > MAX_ROWS_PER_BYTE * len(mapped):  # a column of nothing but null takes no bytes
            detail = f"the table says that it has {rows:,} rows or more in {len(mapped):,} bytes"
            raise RejectedError("too_much_memory", detail)
        yield batch
    # A stream that was cut between two batches still looks whole to pyarrow; the mark of its end tells.
    if not is_file and mapped[-len(_STREAM_END) :] != _STREAM_END:
        raise SourceError(f"{path}: no end-of-stream mark; the file was cut, fetch or save it again")


class ArrowCells:
    """Reads single cells. Rising batches cost one pass over the headers of a stream; a step back starts a new pass.

    A pass takes 2 microseconds a batch, since the batches between are not opened.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()

    def read(self, place: InArrow) -> Any:
        """The value of the cell; `RejectedError` if the file has no such cell or is damaged there."""
        file = self._files.pop(place.path, None)
        try:
            if file is None or place.batch < file.number:
                file = _OpenFile(self._root, place.path)
            self._files[place.path] = file
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
            with memory_limit(MAX_TABLE_BYTES):
                return file.cell(place)
        except MemoryError:
            self._files.pop(place.path, None)
            detail = f"{place.path}: reading the cell takes more than {MAX_TABLE_BYTES >> 20} MiB"
            raise RejectedError("too_much_memory", detail) from None
        except SourceError as error:
            raise RejectedError("bad_media", str(error)) from None

    def close(self) -> None:
        """Drop all open files."""
        self._files.clear()


class _OpenFile:
    """The batches of one file, read forwards; ``number`` is the current batch."""

    def __init__(self, root: Root, path: str) -> None:
        self._path = path
        with arrow_damage(path), root.open_input(path) as file:
            self._mapped = _mapped(file)
            self._batches = _unopened_batches(self._mapped)
        self._read_bytes = 0
        self._batch: pa.RecordBatch | None = None
        self._columns: dict[str, pa.Array] = {}
        self.number = -1

    def cell(self, place: InArrow) -> Any:
        _check_whole(self._mapped, self._path)
        column = self._column(place.batch, place.column)
        with arrow_damage(self._path):  # also fields of one name, which no dictionary can hold
            value = picked(column, place.row, place.item)
        self._read_bytes += _size(value)
        if self._read_bytes > _MAPPED_BYTES:
            give_back(self._mapped)
            self._read_bytes = 0
        return value

    def _column(self, batch: int, name: str) -> pa.Array:
        if self.number < batch:
            with arrow_damage(self._path):
                for opens in islice(self._batches, batch - self.number - 1, None):
                    self._batch = opens()
                    break
                else:
                    raise SourceError(f"{self._path}: has no record batch {batch}")
            self._columns.clear()
            self.number = batch
        if name not in self._columns:
            if self._batch is None or name not in self._batch.schema.names:
                raise SourceError(f"{self._path}: no column {name!r}")
            with arrow_damage(self._path):
                column = self._batch.column(name)
                column.validate(full=True)
            self._columns[name] = column
        return self._columns[name]


def _unopened_batches(mapped: mmap.mmap) -> Iterator[Callable[[], pa.RecordBatch]]:
    """What opens each record batch, in order."""
    import pyarrow as pa

    reader = _opened(mapped)
    if hasattr(reader, "num_record_batches"):
        return (partial(reader.get_batch, number) for number in range(reader.num_record_batches))
    if any("dictionary" in str(field.type) for field in reader.schema):  # which other messages hold
        return (partial(lambda batch: batch, batch) for batch in reader)
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(mapped)))
    batches = (message for message in messages if message.type == "record batch")
    return (partial(pa.ipc.read_record_batch, message, reader.schema) for message in batches)


def picked(column: pa.Array, row: int, item: int | tuple[str | int, ...] | None) -> Any:
    """The value at ``row``, or what ``item`` leads to inside it (see `InParquet`); `SourceError` if there is none."""
    if row >= len(column):
        raise SourceError(f"there are {len(column)} rows, and no row {row}")
    cell = column[row]
    if item is None:
        return cell.as_py()
    if isinstance(item, tuple):
        value = cell.as_py()
        for step in item:
            try:
                value = value[step]
            except (LookupError, TypeError):
                raise SourceError(f"row {row} has nothing at {step!r}") from None
        return value
    entries = getattr(cell, "values", None)
    if entries is None or item >= len(entries):
        raise SourceError(f"row {row} has no entry {item}")
    return entries[item].as_py()


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _check_whole(mapped: mmap.mmap, path: str) -> None:
    """Raise `SourceError` if the file has become shorter than its mapping: a look beyond its end kills the process."""
    if mapped.size() < len(mapped):
        raise SourceError(f"{path}: was cut while it was read; fetch or save it again, and run the build again")


def give_back(mapped: mmap.mmap) -> None:
    """Release the pages that were looked at; if they are needed again, they are read from the file again."""
    if hasattr(mapped, "madvise"):  # not on every system
        mapped.madvise(mmap.MADV_DONTNEED)


def _size(value: Any) -> int:
    """About how many bytes of the file the value of a cell has taken."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return len(value) if isinstance(value, bytes | str) else 0


def _opened(mapped: mmap.mmap) -> pa.RecordBatchStreamReader | pa.RecordBatchFileReader:
    import pyarrow as pa

    source = pa.BufferReader(pa.py_buffer(mapped))
    options = pa.ipc.IpcReadOptions(use_threads=False)  # stacks of threads would count, and nothing is unpacked
    if mapped[: len(_FILE_MAGIC)] == _FILE_MAGIC:
        return pa.ipc.open_file(source, options=options)
    return pa.ipc.open_stream(source, options=options)


@contextmanager
def arrow_damage(path: str, what: str = "Arrow data") -> Iterator[None]:
    """Turn whatever pyarrow raises on damaged bytes into a `SourceError` that names the file and ``what`` it holds."""
    import pyarrow as pa

    try:
        with want_of_memory():
            yield
    except MemoryError:
        raise  # pyarrow's is also one of its exceptions
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        raise SourceError(f"{path}: damaged {what}: {str(error)[:300]}") from None
