"""A table of texts on disk: what joins two files that are both too big to hold, such as questions and their answers.

A SQLite file in a temporary folder; memory stays at its page cache (16 MiB), whatever the number of entries.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["DiskTable"]

_CACHE_KIB: Final = 16 << 10


class DiskTable:
    """Values by key, both text. Lives as long as its ``with`` block; nothing of it is kept."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mimicit-")
        self._db = sqlite3.connect(Path(self._folder.name) / "table.sqlite", isolation_level=None)
        # Never read again after a crash, so neither a journal nor a sync is needed.
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._db.execute(
            "CREATE TABLE entry(key TEXT PRIMARY KEY, value TEXT NOT NULL, used INTEGER NOT NULL DEFAULT 0)"
            " WITHOUT ROWID"
        )
        self._db.execute("BEGIN")

    def add(self, key: str, value: str) -> bool:
        """Enter ``value``; false where ``key`` is there already, which then keeps its first value."""
        return self._db.execute("INSERT OR IGNORE INTO entry(key, value) VALUES (?, ?)", (key, value)).rowcount == 1

    def get(self, key: str) -> str | None:
        """The value of ``key``, or None."""
        row = self._db.execute("SELECT value FROM entry WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def use(self, key: str) -> str | None:
        """As `get`, and the entry is no longer one of `unused`."""
        self._db.execute("UPDATE entry SET used = 1 WHERE key = ?", (key,))
        return self.get(key)

    def unused(self) -> Iterator[tuple[str, str]]:
        """(key, value) of the entries that nobody asked for with `use`, sorted by key."""
        yield from self._db.execute("SELECT key, value FROM entry WHERE used = 0 ORDER BY key")

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
