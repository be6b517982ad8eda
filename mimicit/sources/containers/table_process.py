"""Rows of Arrow and parquet tables, read in a process of its own with limited memory.

A parquet file of 600 bytes can hold a thousand rows of 4 MiB (one entry of a dictionary), and a page of 60 kB can
unpack to gigabytes: no header says beforehand what reading a table takes. So it is read by another process, which is
handed the open file and a limit that the system enforces (see `mimicit.media.bounds`). If that is too little, the same
rows are read again in smaller batches; a row that alone is too much, or that ends the process, becomes a
`RejectedError`.

A process serves one table after another, and ends after some time without a request. Cost: 30 ms to begin (0.5 s
without the server that builds start their workers from), and 2 microseconds a row.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from mimicit.errors import RejectedError, SourceError
from mimicit.media.bounds import data_bytes, memory_limit
from mimicit.sources.files.root import Root
from mimicit.worker import apart_from_main, begin_worker, check_processes

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES: Final = 320 << 20
"""The memory that reading a table may take: a page of 100 MB packed, unpacked, and a dictionary of that size."""

MAX_COLUMNS: Final = 1_000
"""The most columns of a table, as in CSV files; every unknown one goes to the ``meta`` of every row."""

MAX_ROWS_PER_BYTE: Final = 160
"""The most rows for each byte of a table; more rows than that hold nothing but the same value, or none."""

MAX_VALUES: Final = 1_000_000
"""The most values of one row, with the entries of its lists."""

Place = tuple[int, int]
"""A row group or record batch, and a row in it."""

_T = TypeVar("_T")
_ROWS_AT_ONCE: Final = (1024, 32, 1)
_MAX_FAILURES: Final = 8  # in one table, after which the rest is given up
_FRAME_BYTES: Final = 1 << 20  # of rows, sent together
_MAX_ROW_BYTES: Final = 64 << 20
_MAX_UNPACKED_BYTES: Final = 256 << 20  # of the rows of a table, plus the ratio times the size of its file
_MAX_UNPACKED_RATIO: Final = 1000
_SILENCE_SECONDS: Final = 300.0  # of a process that reads; far more than a page takes on a busy machine
_IDLE_SECONDS: Final = 10.0
_MAX_LEFT_BYTES: Final = MAX_TABLE_BYTES // 2  # of one table, until the next has another process; Arrow reserves 128 MB

_ROWS, _END, _ERROR, _MEMORY = "rows", "end", "error", "memory"


def rows_apart(
    root: Root,
    path: str,
    read: Callable[..., Iterator[tuple[int, int, _T]]],
    *arguments: object,
    can_skip: bool = True,
    start: Place = (0, 0),
) -> Iterator[tuple[int, int, _T | RejectedError]]:
    """The rows that ``read(file, path, *arguments, at_once, start)`` makes of the table at ``path``, from ``start`` on.

    ``read`` is a function of a module. It yields (block, row in the block, values) from the `Place` ``start`` on,
    ``at_once`` rows unpacked together. A row that cannot be read is a `RejectedError`: ``too_long``, or
    ``too_much_memory``, which stands for the rest of its block or of the table, too. `SourceError` as ``read``, and if
    the file cannot be opened. Without ``can_skip``, no block can be skipped unread: nothing follows a block that takes
    too much.
    """
    at, at_once, failures = start, _ROWS_AT_ONCE[0], 0
    while True:
        try:
            frame = _FRAME_BYTES if at_once > 1 else 0  # what was not sent is lost with the process
            for block, row, value in _made_apart(root, path, read, *arguments, at_once, at, frame=frame):
                at = (block, row + 1)
                yield block, row, value
            return
        except RejectedError as error:
            yield *at, error
            return
        except _TooMuchError as error:
            smaller = next((size for size in _ROWS_AT_ONCE if size < at_once), 0)
            if smaller:
                at_once = smaller
                continue
            failures += 1
            is_last = failures == _MAX_FAILURES or not can_skip
            rest = "the table" if is_last else "this row group"
            detail = f"{error} at row {at[1]} of row group {at[0]}; the rest of {rest} is left out"
            yield *at, RejectedError("too_much_memory", detail)
            if is_last:
                return
            at = (at[0] + 1, 0)


def value_apart(root: Root, path: str, read: Callable[..., _T], *arguments: object) -> _T:
    """``read(file, path, *arguments)`` of the table at ``path``; `SourceError` as ``read``, and for too much memory."""
    try:
        ((_, _, value),) = _made_apart(root, path, _one_value, read, *arguments)
    except (_TooMuchError, RejectedError) as error:
        raise SourceError(f"{path}: {error}") from None
    result: _T = value
    return result


class _TooMuchError(Exception):
    """The process ran out of the memory that it may take, or ended."""


class _TableProcess:
    """A process that reads tables, and the connection to it."""

    def __init__(self) -> None:
        check_processes()
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with apart_from_main():
            self._process.start()
        theirs.close()
        self._idle_since = time.monotonic()
        self._is_spent = False

    def is_fresh(self) -> bool:
        """Whether it is certainly still running, and has all the memory that a table may take."""
        return (
            not self._is_spent and self._process.is_alive() and time.monotonic() - self._idle_since < _IDLE_SECONDS / 2
        )

    def made(self, file: BinaryIO, request: bytes) -> Iterator[Any]:
        """The items that the process makes of a ``request``, one by one; the open ``file`` is handed to it."""
        fault: Exception | None = None
        try:
            send_handle(self._connection, file.fileno(), self._process.pid)
            self._connection.send_bytes(request)
            while True:
                if not self._connection.poll(_SILENCE_SECONDS):
                    raise _TooMuchError(f"reading gave nothing for {_SILENCE_SECONDS:.0f} s")
                kind, value = self._connection.recv()
                if kind == _ROWS:
                    rows = io.BytesIO(self._connection.recv_bytes())
                    for _ in range(value):
                        yield pickle.load(rows)
                elif kind == _ERROR:
                    fault = value
                elif kind == _MEMORY:
                    raise _TooMuchError(f"reading takes more than {MAX_TABLE_BYTES >> 20} MiB of memory")
                else:
                    self._is_spent = value
                    break
        except (EOFError, OSError):
            self._process.join(1)
            raise _TooMuchError(f"reading ended its process (exit code {self._process.exitcode})") from None
        self._idle_since = time.monotonic()
        if fault is not None:
            raise fault

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._process.close()


_idle: list[_TableProcess] = []  # at most one


def _made_apart(
    root: Root, path: str, read: Callable[..., Any], *arguments: object, frame: int = _FRAME_BYTES
) -> Iterator[Any]:
    """The items of ``read(file, path, *arguments)``, made in another process."""
    process = _idle.pop() if _idle else None
    if process is None or not process.is_fresh():
        if process is not None:
            process.close()
        process = _TableProcess()
    is_through = False
    try:
        with root.open_input(path) as file:
            yield from process.made(file, pickle.dumps((read, (path, *arguments), frame)))
        is_through = True
    except (SourceError, RejectedError):
        is_through = True  # a fault of the table; the process can read another
        raise
    finally:
        # A process that was left in the middle, or ran out of memory, is of no further use.
        if is_through and not _idle:
            _idle.append(process)
        else:
            process.close()


def check_columns(count: int) -> None:
    """Raise `RejectedError` if a table has more columns than `MAX_COLUMNS`."""
    if count > MAX_COLUMNS:
        detail = f"the table has {count:,} columns; the limit is {MAX_COLUMNS:,}; leave out those that say nothing"
        raise RejectedError("malformed", detail)


def column_types(schema: pa.Schema, path: str) -> dict[str, str]:
    """The type of each column, as Arrow names it; `SourceError` if two columns have one name."""
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        raise SourceError(f"{path}: several columns are called {repeated[0][:80]!r}; rename all but one of them")
    return {field.name: str(field.type) for field in schema}


def too_many_values() -> RejectedError:
    """The error about a row that holds more than `MAX_VALUES`."""
    return RejectedError("too_long", f"the row holds more than {MAX_VALUES:,} values")


def _one_value(file: BinaryIO, path: str, read: Callable[..., _T], *arguments: object) -> Iterator[tuple[int, int, _T]]:
    yield 0, 0, read(file, path, *arguments)


def _serve(connection: Connection) -> None:
    """Answer requests until none comes for `_IDLE_SECONDS`; runs in the other process."""
    begin_worker()
    # A C library that ends the process says so here first; the parent reports it with the name of the file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    before = data_bytes()
    with memory_limit(MAX_TABLE_BYTES):
        while connection.poll(_IDLE_SECONDS):
            try:
                with os.fdopen(recv_handle(connection), "rb") as file:
                    read, arguments, frame = pickle.loads(connection.recv_bytes())
                    budget = _MAX_UNPACKED_BYTES + _MAX_UNPACKED_RATIO * os.fstat(file.fileno()).st_size
                    _answer(connection, read(file, *arguments), budget, frame)
                connection.send((_END, _is_spent(before)))
            except MemoryError:
                connection.send((_MEMORY, None))
                return
            except (EOFError, OSError):
                return  # the parent is gone, or has no use for the rest
            except Exception as error:  # handed to the parent, which raises it
                connection.send((_ERROR, error))
                connection.send((_END, _is_spent(before)))


def _is_spent(before: int | None) -> bool:
    """Whether tables have left so much memory in use here that the next one would not have all that it may take."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    now = data_bytes()
    return before is not None and now is not None and now - before > _MAX_LEFT_BYTES


def _answer(connection: Connection, items: Iterator[tuple[int, int, Any]], budget: int, frame_bytes: int) -> None:
    """Send ``items`` in frames until they have more than ``budget`` bytes together."""
    frame: list[bytes] = []
    size = 0
    for block, row, value in items:
        if budget < 0:
            detail = "the table unpacks to more than a thousand times its size; its rest is left out"
            frame.append(pickle.dumps((block, row, RejectedError("too_much_memory", detail))))
            break
        data = pickle.dumps((block, row, _bounded(value)), pickle.HIGHEST_PROTOCOL)
        if len(data) > _MAX_ROW_BYTES:
            fault = RejectedError("too_long", f"the row takes more than {_MAX_ROW_BYTES >> 20} MiB")
            data = pickle.dumps((block, row, fault))
        frame.append(data)
        size += len(data)
        budget -= len(data)
        if size >= frame_bytes:
            _send_rows(connection, frame)
            frame, size = [], 0
    _send_rows(connection, frame)


def _send_rows(connection: Connection, frame: list[bytes]) -> None:
    connection.send((_ROWS, len(frame)))
    connection.send_bytes(b"".join(frame))  # one pickle after the other; a large one is not copied


def _bounded(value: Any) -> Any:
    """``value``, or a `RejectedError` in its place if it holds too many values."""
    left = MAX_VALUES
    inner = [value]
    while inner:
        one = inner.pop()
        if isinstance(one, list | tuple | dict):
            left -= len(one)
            if left < 0:
                return too_many_values()
            inner.extend(entry for entry in (one.values() if isinstance(one, dict) else one) if _holds(entry))
    return value


def _holds(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)
