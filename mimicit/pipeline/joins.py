"""Joins, sorts and windows over the tables of a build: DuckDB, with bounded memory, spilling into the work folder.

Every query orders its rows by a key, so threads never change a result. No query aggregates texts or lists (``list``,
``any_value``, ``max`` of a text): DuckDB keeps these in memory until the query ends, however many there are. Take the
first row of a window instead, or put lists together with `with_lists`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa

from mimicit.errors import BuildError
from mimicit.pipeline.ragged import list_array

_MEMORY_LIMIT: Final = "192MB"
_THREADS: Final = 2
_BATCH_ROWS: Final = 1 << 14  # held in memory while they are read or added
_BATCH_BYTES: Final = 1 << 20
_TABLES: Final = """
SELECT view_name, 'VIEW' FROM duckdb_views() WHERE NOT internal
UNION ALL SELECT table_name, 'TABLE' FROM duckdb_tables() ORDER BY 2 DESC
"""  # views first: they rest on tables; information_schema takes more than twice the time

_instances: Final[dict[Path, duckdb.DuckDBPyConnection]] = {}
"""The shared instances of this process, by work folder."""


@contextmanager
def started_once(work: Path) -> Iterator[None]:
    """While the block runs, all `joins` of ``work`` share one instance of DuckDB, whose start takes 10 ms of CPU time.

    They must not overlap, as their tables would have the same names.
    """
    with _instance(work) as instance:
        _instances[work] = instance
        try:
            yield
        finally:
            del _instances[work]


@contextmanager
def joins(work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose tables live as long as the block; `BuildError` if disk or memory run out."""
    shared = _instances.get(work)
    if shared is None:
        with _instance(work) as db:
            yield db
        return
    with shared.cursor() as db:
        yield db
        # One call for all of them: each takes as long as a small query.
        db.execute("".join(f"DROP {kind} {name};" for name, kind in db.execute(_TABLES).fetchall()))


@contextmanager
def _instance(work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    spill = work / "joins"
    spill.mkdir(exist_ok=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY_LIMIT,
        "temp_directory": str(spill),
        "threads": _THREADS,
    }
    try:
        with duckdb.connect(config=config) as instance:
            yield instance
    except duckdb.OperationalError as error:  # no space to spill into, or not even the least memory
        why = str(error).splitlines()[0]
        raise BuildError(f"{work}: {why}; fix this and run the same command again to go on") from error


def insert(db: duckdb.DuckDBPyConnection, table: str, batches: Iterable[pa.RecordBatch], columns: str = "*") -> None:
    """Add ``columns`` of ``batches``, which are alike, to ``table``; small ones are added together."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _BATCH_ROWS or size >= _BATCH_BYTES:
            _insert(db, table, waiting, columns)
            waiting, rows, size = [], 0, 0
    if waiting:
        _insert(db, table, waiting, columns)


def _insert(db: duckdb.DuckDBPyConnection, table: str, batches: Sequence[pa.RecordBatch], columns: str) -> None:
    added = pa.Table.from_batches(batches)  # noqa: F841  DuckDB finds it by its name
    db.execute(f"INSERT INTO {table} SELECT {columns} FROM added")


def ordered(db: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of ``query`` as batches of ``schema``."""
    for batch in db.sql(query).to_arrow_reader(_BATCH_ROWS):
        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()


def with_lists(db: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema, **lists: str) -> Iterator[pa.RecordBatch]:
    """The rows of ``query`` as batches of ``schema``, with another column, of lists of integers.

    The first column of ``query``, which is not in ``schema``, numbers the rows, which are ordered by it. ``lists`` has
    the name of the column of lists, and a query for (number of a row, value) in the order of the rows and of each list.
    """
    ((name, values_query),) = lists.items()
    with db.cursor() as cursor:
        batches = cursor.sql(values_query).to_arrow_reader(_BATCH_ROWS)
        owners = values = np.empty(0, np.int64)  # (row, value) of the values that have been read, but for past rows
        for rows in db.sql(query).to_arrow_reader(_BATCH_ROWS):
            numbers = rows.column(0).to_numpy()
            while not len(owners) or owners[-1] <= numbers[-1]:
                if (batch := next(batches, None)) is None:
                    break
                owners = np.concatenate([owners, batch.column(0).to_numpy()])
                values = np.concatenate([values, batch.column(1).to_numpy()])
            first, end = np.searchsorted(owners, numbers), np.searchsorted(owners, numbers, "right")
            # Values of rows that are not asked for lie between those of rows that are.
            found = list_array(pa.array(values[np.isin(owners, numbers)]), end - first)
            table = pa.table({column: rows.column(column) for column in rows.schema.names[1:]} | {name: found})
            yield from table.select(schema.names).cast(schema).to_batches()
            owners, values = owners[end[-1] :], values[end[-1] :]


def rows_of(db: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows of ``query`` one by one; the caller may write to other tables meanwhile.

    A few rows take half the time that they take as Arrow, for which the query is planned twice.
    """
    with db.cursor() as cursor:
        cursor.execute(query)
        while rows := cursor.fetchmany(_BATCH_ROWS):
            yield from rows
