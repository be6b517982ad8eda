"""The fingerprint of the input: names, sizes and contents of all files under ``--src``.

What was found stays in a SQLite file in the work folder, so memory does not grow with the number of files, and a later
build can tell which inputs are still the same (see `mimicit.build.former`).
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mimicit.build.engine import Engine
from mimicit.build.progress import Progress
from mimicit.errors import BuildError, RejectedError
from mimicit.sources.root import Root

__all__ = ["InputScan", "ScannedFiles", "scan_input"]

_BATCH_BYTES: Final = 64 * 1024**2
_BATCH_FILES: Final = 4096
_TABLE: Final = """
CREATE TABLE file(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, sha256 TEXT NOT NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputScan:
    """What lies under ``--src``: number of files, bytes, and a SHA-256 over names and contents."""

    fingerprint: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Files to hash; ``first`` is the place of the first one in the order of the walk."""

    root: Root
    first: int
    paths: tuple[str, ...]


def scan_input(root: Root, table: Path, engine: Engine, progress: Progress) -> InputScan:
    """Hash every file once, in parallel, into the new file ``table``, which `ScannedFiles` reads.

    The result does not depend on dates, links or the order of folders.
    """
    table.unlink(missing_ok=True)
    db = sqlite3.connect(table, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = OFF")  # made anew by every build
        db.execute("PRAGMA synchronous = OFF")
        db.execute(_TABLE)
        db.execute("BEGIN")
        for batch, rows in engine.run(_hash_files, _batches(root), label="scan", progress=progress):
            numbered = ((batch.first + place, *row) for place, row in enumerate(rows))
            db.executemany("INSERT INTO file VALUES (?, ?, ?, ?)", numbered)
        db.execute("COMMIT")
        total = hashlib.sha256()
        files = size = 0
        for path, length, digest in db.execute("SELECT path, size, sha256 FROM file ORDER BY id"):
            total.update(f"{path}\0{length}\0{digest}\n".encode())
            files += 1
            size += length
    finally:
        db.close()
    return InputScan(fingerprint=total.hexdigest(), files=files, bytes=size)


class ScannedFiles:
    """The hashes of the files that `scan_input` found."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self._db = sqlite3.connect(f"{table.resolve().as_uri()}?mode=ro&immutable=1", uri=True)

    def close(self) -> None:
        """Close the table."""
        self._db.close()

    def digest(self, paths: Sequence[str]) -> str | None:
        """One SHA-256 over the contents of ``paths`` (relative to ``--src``); ``None`` where one was not found."""
        total = hashlib.sha256()
        for path in paths:
            row = self._db.execute("SELECT sha256 FROM file WHERE path = ?", (path,)).fetchone()
            if row is None:
                return None
            total.update(bytes.fromhex(row[0]))
        return total.hexdigest()


def _batches(root: Root) -> Iterator[_Batch]:
    paths: list[str] = []
    first = waiting = 0
    for path, size in root.walk():
        paths.append(path)
        waiting += size
        if waiting >= _BATCH_BYTES or len(paths) >= _BATCH_FILES:
            yield _Batch(root=root, first=first, paths=tuple(paths))
            first, waiting, paths = first + len(paths), 0, []
    if paths:
        yield _Batch(root=root, first=first, paths=tuple(paths))


def _hash_files(batch: _Batch) -> list[tuple[str, int, str]]:
    """(path, bytes, SHA-256) of each file; runs in a worker."""
    rows: list[tuple[str, int, str]] = []
    for path in batch.paths:
        try:
            with batch.root.open(path) as file:
                digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]  # one buffer: faster
                rows.append((path, file.tell(), digest.hexdigest()))
        except (RejectedError, OSError) as error:
            raise BuildError(f"{path}: cannot be read ({error}); mend or remove it") from None
    return rows
