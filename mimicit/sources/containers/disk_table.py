"""A table of texts on disk: what joins two files that are both too big to hold, such as questions and their answers.

It is for reading a source in one go (`read_joined`, see `mimicit.sources.format.Join`); the build joins large files by
tables of its own. A SQLite file in a temporary folder; memory is limited to its page cache (16 MiB), whatever the
number of entries.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mimicit.sources.files.root import Root
from mimicit.sources.format import EntryPlace, Join, SourceSpec
from mimicit.sources.items import Entry, Item, Note, Reject

_ITEMS_AT_ONCE: Final = 500

_CACHE_KIB: Final = 16 << 10
_MOST_ASKED: Final = 500  # keys in one query
_ADD: Final = "INSERT INTO entry(key, value, place) VALUES (?, ?, ?)"
_FIRST: Final = "SELECT min(number), key, value, place FROM entry"  # SQLite takes the others from the row of the least


def read_joined(join: Join, spec: SourceSpec, root: Root) -> Iterator[Item]:
    """The rejects and notes of the entries, then the records, then the rejects of entries that no record has used."""
    with DiskTable() as table:
        waiting: list[Entry | Reject | Note] = []
        for item in join.entries(spec, root):
            waiting.append(item)
            if len(waiting) == _ITEMS_AT_ONCE:
                yield from _entered(join, spec, table, waiting)
                waiting = []
        yield from _entered(join, spec, table, waiting)
        yield from join.records(spec, root, table)
        if join.unused is not None:
            for entry in table.unused():
                yield join.unused(spec, entry)


def repeated_answer(spec: SourceSpec, answer: Entry) -> Reject:
    """The reject of a second answer to a question."""
    detail = "this question was answered before; the first annotation counts"
    return spec.reject("duplicate_id", place=answer.place, id=answer.key, detail=detail, scope="reference")


def unused_answer(spec: SourceSpec, answer: Entry) -> Reject:
    """The reject of an answer whose question is absent."""
    detail = "no question has the question_id of this answer"
    return spec.reject("dangling_reference", place=answer.place, id=answer.key, detail=detail, scope="reference")


def _entered(
    join: Join, spec: SourceSpec, table: DiskTable, items: Iterable[Entry | Reject | Note]
) -> Iterator[Reject | Note]:
    """Enter the entries among ``items``; yield the other items, and the rejects of repeated entries."""
    items = list(items)
    added = iter(table.add_all([item for item in items if isinstance(item, Entry)]))
    for item in items:
        if not isinstance(item, Entry):
            yield item
        elif not next(added) and join.repeated is not None and (reject := join.repeated(spec, item)):
            yield reject


class DiskTable:
    """Entries by key. Lives as long as its ``with`` block; nothing of it is kept."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mimicit-")
        self._db = sqlite3.connect(Path(self._folder.name) / "table.sqlite", isolation_level=None)
        # Never read again after a crash, so neither a journal nor a sync is needed.
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # Values are stored in the order in which they were added, mostly also that in which they are looked up.
        self._db.execute(
            "CREATE TABLE entry(number INTEGER PRIMARY KEY,"
            " key TEXT NOT NULL, value TEXT NOT NULL, place TEXT NOT NULL)"
        )
        self._db.execute("CREATE INDEX entry_key ON entry(key)")
        self._db.execute("BEGIN")
        self._used = bytearray()  # by number

    def add_all(self, entries: Sequence[Entry]) -> list[bool]:
        """Add the ``entries``; return for each whether it is the first of its key, whose value `get` finds."""
        known = {key for _, key, _ in self._found([entry.key for entry in entries])}
        new: list[bool] = []
        for entry in entries:
            new.append(entry.key not in known)
            known.add(entry.key)
        self._db.executemany(_ADD, entries)
        return new

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        place = self.first(key)
        return None if place is None else self.value(place)

    def use_all(self, keys: Sequence[str]) -> dict[str, str]:
        """The values of the ``keys`` that exist; their entries are no longer among `unused`."""
        found: dict[str, str] = {}
        for number, key, value in self._found(keys):
            if number >= len(self._used):
                self._used.extend(bytes(number + 1 - len(self._used)))
            self._used[number] = 1
            found[key] = value
        return found

    def _found(self, keys: Sequence[str]) -> Iterator[tuple[int, str, str]]:
        """(number, key, value) of each of the ``keys`` that exists."""
        for start in range(0, len(keys), _MOST_ASKED):
            asked = keys[start : start + _MOST_ASKED]
            marks = ", ".join("?" * len(asked))
            for number, key, value, _ in self._db.execute(f"{_FIRST} WHERE key IN ({marks}) GROUP BY key", asked):
                yield number, key, value

    def own(self) -> Iterator[tuple[EntryPlace, Entry]]:
        """All entries, in the order in which they were added."""
        for number, *entry in self._db.execute("SELECT number, key, value, place FROM entry ORDER BY number"):
            yield (0, number), Entry(*entry)

    def first(self, key: str) -> EntryPlace | None:
        """Where the first entry with ``key`` lies."""
        return next(self.all(key), None)

    def all(self, key: str) -> Iterator[EntryPlace]:
        """Where the entries with ``key`` lie, in the order in which they were added."""
        for (number,) in self._db.execute("SELECT number FROM entry WHERE key = ? ORDER BY number", (key,)):
            yield 0, number

    def value(self, place: EntryPlace) -> str:
        """The value of an entry."""
        return str(self._db.execute("SELECT value FROM entry WHERE number = ?", (place[1],)).fetchone()[0])

    def unused(self) -> Iterator[Entry]:
        """The first entries of the keys that were never looked up with `use_all`, sorted by key."""
        for number, *entry in self._db.execute(f"{_FIRST} GROUP BY key ORDER BY key"):
            if number >= len(self._used) or not self._used[number]:
                yield Entry(*entry)

    def close(self) -> None:
        """Remove the table."""
        self._db.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
