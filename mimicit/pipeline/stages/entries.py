"""Entries: what the records of a source look up while parts are imported in parallel (`mimicit.sources.format.Join`).

The entries of each part are a table. A join indexes the entries of a source, sorted by the digests of their keys, and
records find them by this index; only the pages that are touched take memory, and these are given back. Entries that no
record has used are found at the end, by joins of their places alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from mimicit.pipeline.joins import insert, joins, ordered, rows_of
from mimicit.pipeline.parts import ColumnFile, TableWriter, batches_of_rows, numbered, write_columns
from mimicit.pipeline.tables import ENTRY_INDEX, USED_ENTRIES
from mimicit.sources.format import EntryPlace
from mimicit.sources.items import Entry

_OPEN_PARTS: Final = 64
_GIVE_BACK: Final = 1 << 12  # look-ups between two releases of memory
_USED_ROWS: Final = 1 << 12
_INDEX: Final = """
SELECT digest, part, n AS row, row_number() OVER (PARTITION BY digest, key ORDER BY part, n) = 1 AS is_first
FROM entries ORDER BY digest, part, n
"""
_LEFT: Final = "SELECT part, row FROM {} ANTI JOIN {} USING (part, row) ORDER BY part, row"
_KEYS: Final = pa.schema([("part", pa.int64()), ("row", pa.int64()), ("key", pa.large_string())])


@dataclass(frozen=True, slots=True)
class EntryTables:
    """The tables of one source in ``folder``; ``parts`` are the numbers of the parts that may hold entries."""

    folder: Path
    source: int
    parts: tuple[int, ...]

    @property
    def index(self) -> Path:
        """The path of ENTRY_INDEX."""
        return self.folder / f"source-{self.source:08d}.entries.arrow"

    def entries(self) -> Iterator[tuple[int, Path]]:
        """(number, path of ENTRIES) of the parts that have any."""
        for part in self.parts:
            if (path := self.of_part(part)).exists():
                yield part, path

    def of_part(self, part: int) -> Path:
        """The path of ENTRIES of a part."""
        return self.folder / f"{part:08d}.entries.arrow"


def digest_of(key: str) -> int:
    """A hash of 64 bits; other keys may have the same."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def index_entries(work: Path, tables: EntryTables) -> None:
    """Write the index of a source, once."""
    if tables.index.exists():
        return
    with joins(work) as db:
        db.execute("CREATE TABLE entries(part BIGINT, n BIGINT, digest UBIGINT, key VARCHAR)")
        for part, path in tables.entries():
            insert(db, "entries", numbered(path, ["digest", "key"]), f"{part}, n, digest, key")
        write_columns(tables.index, ENTRY_INDEX, ordered(db, _INDEX, ENTRY_INDEX))


class EntryFinder:
    """Finds the entries of one source, inside a ``with`` block; a `mimicit.sources.format.Lookup`.

    ``own`` is the part with the entries of the piece whose records look them up, if there is one. When the block ends,
    the table ``used`` lists the entries that were used.
    """

    def __init__(self, tables: EntryTables, own: int | None, used: Path) -> None:
        self._tables = tables
        self._own = own
        self._index = ColumnFile(tables.index)
        self._part = lru_cache(_OPEN_PARTS)(lambda part: ColumnFile(tables.of_part(part)))
        self._used = TableWriter(used, USED_ENTRIES, skip_empty=True)
        self._held = ExitStack()
        self._rows: list[tuple[int, int]] = []  # used, and not written yet
        self._asked = 0

    def __enter__(self) -> Self:
        self._held.enter_context(self._used)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_used()
        self._held.__exit__(kind, error, trace)

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        found = self.first(key)
        return None if found is None else self.value(found)

    def use_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of the ``keys`` that exist; their entries then count as used."""
        values: dict[str, str] = {}
        for key in keys:
            if key not in values and (found := self.first(key)):
                values[key] = self.value(found)
                self._rows.append(found)
        if len(self._rows) >= _USED_ROWS:
            self._write_used()
        return values

    def _write_used(self) -> None:
        if self._rows:
            self._used.add_columns(list(zip(*self._rows, strict=True)))
            self._rows = []

    def own(self) -> Iterator[tuple[EntryPlace, Entry]]:
        """The entries of the piece, in their order."""
        if self._own is None or not (path := self._tables.of_part(self._own)).exists():
            return
        for batch in numbered(path, ["key", "value", "place"]):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            yield from (((self._own, row), Entry(*entry)) for row, *entry in rows)

    def first(self, key: str) -> EntryPlace | None:
        """The part and the row of the first entry with ``key``."""
        return next(self.all(key), None)

    def all(self, key: str) -> Iterator[EntryPlace]:
        """The part and the row of each entry with ``key``, in their order."""
        self._asked += 1
        if self._asked % _GIVE_BACK == 0:
            self._index.give_back()
            self._part.cache_clear()
        digest = digest_of(key)
        for place in range(self._index.lower_bound("digest", digest), self._index.rows):
            if self._index.number("digest", place) != digest:
                break
            part, row = self._index.number("part", place), self._index.number("row", place)
            if self._part(part).text("key", row) == key:
                yield part, row

    def value(self, place: EntryPlace) -> str:
        """The value of the entry in a part and a row."""
        part, row = place
        return self._part(part).text("value", row)


def repeated_entries(work: Path, tables: EntryTables) -> Iterator[tuple[int, int, Entry]]:
    """(part, item, entry) of the entries whose key an earlier one has, in their order."""
    with joins(work) as db:
        _create(db, "repeated")
        insert(db, "repeated", _indexed(tables, is_first=False))
        for part, row in rows_of(db, "SELECT part, row FROM repeated ORDER BY part, row"):
            table = ColumnFile(tables.of_part(part))
            yield part, table.number("item", row), _entry(table, row)


def unused_entries(work: Path, tables: EntryTables, used: Iterable[Path]) -> Iterator[Entry]:
    """The entries that no record has used (``used``: the tables of all parts), sorted by key, without repeated ones."""
    with joins(work) as db:
        _create(db, "first", "used")
        insert(db, "first", _indexed(tables, is_first=True))
        insert(db, "used", (batch for path in used for batch in numbered(path, ["part", "row"])), "part, row")
        part_of = lru_cache(_OPEN_PARTS)(lambda part: ColumnFile(tables.of_part(part)))
        left = rows_of(db, _LEFT.format("first", "used"))
        db.execute("CREATE TABLE unused(part BIGINT, row BIGINT, key VARCHAR)")
        keyed: Iterator[tuple[Any, ...]] = ((part, row, part_of(part).text("key", row)) for part, row in left)
        insert(db, "unused", batches_of_rows(keyed, _KEYS))
        for part, row in rows_of(db, "SELECT part, row FROM unused ORDER BY key"):
            yield _entry(part_of(part), row)


def _create(db: duckdb.DuckDBPyConnection, *names: str) -> None:
    for name in names:
        db.execute(f"CREATE TABLE {name}(part BIGINT, row BIGINT)")


def _indexed(tables: EntryTables, *, is_first: bool) -> Iterator[pa.RecordBatch]:
    """The parts and rows of the entries that are the first of their key, or of the others."""
    for batch in numbered(tables.index, ["part", "row", "is_first"]):
        wanted = batch.column("is_first") if is_first else pc.invert(batch.column("is_first"))
        yield batch.select(["part", "row"]).filter(wanted)


def _entry(table: ColumnFile, row: int) -> Entry:
    return Entry(table.text("key", row), table.text("value", row), table.text("place", row))
