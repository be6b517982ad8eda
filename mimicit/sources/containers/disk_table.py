"""A table of texts on disk: what joins two files that are both too big to hold, such as questions and their answers.

It is for reading a source in one go; the build joins large files by tables of its own.
A SQLite file in a temporary folder; memory is limited to its page cache (16 MiB), whatever the number of entries.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mimicit.sources.items import Entry

_CACHE_KIB: Final = 16 << 10
_MOST_ASKED: Final = 500  # keys in one query
_ADD: Final = "INSERT OR IGNORE INTO entry(key, value, place) VALUES (?, ?, ?)"


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
            " key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, place TEXT NOT NULL)"
        )
        self._db.execute("BEGIN")
        self._used = bytearray()  # by number

    def add_all(self, entries: Sequence[Entry]) -> list[bool]:
        """Add the ``entries``; return for each whether it was added: a key that is there keeps its first value."""
        before = self._db.total_changes
        first = self._db.execute("SELECT max(number) FROM entry").fetchone()[0] or 0
        self._db.executemany(_ADD, entries)
        if self._db.total_changes - before == len(entries):
            return [True] * len(entries)
        new = {key for number, key, _ in self._found([entry.key for entry in entries]) if number > first}
        added: list[bool] = []
        for entry in entries:
            added.append(entry.key in new)
            new.discard(entry.key)
        return added

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        row = self._db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

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
            yield from self._db.execute(f"SELECT number, key, value FROM entry WHERE key IN ({marks})", asked)

    def unused(self) -> Iterator[Entry]:
        """The entries that were never looked up with `use_all`, sorted by key."""
        for number, *entry in self._db.execute("SELECT number, key, value, place FROM entry ORDER BY key"):
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
