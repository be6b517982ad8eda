"""What a scan has found of the input, and the promise that what is read later is what was hashed then.

The table has size, times, inode and SHA-256 of every file. A `Root` that is given it compares each file when the file
is opened and again when it is closed, so a file that is cut, replaced or restored in between stops the build with an
error that names it, and never reaches a shard. Cost: 20 microseconds a file.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from mimicit.errors import BuildError

SCANNED_TABLE: Final = """
CREATE TABLE file(
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
    changed_ns INTEGER NOT NULL, inode INTEGER NOT NULL,
    sha256 TEXT NOT NULL,     -- of the whole file, or of its beginning where nothing more of it can be used
    is_whole INTEGER NOT NULL
)
"""
APPEARED: Final = "it was not there before"
GONE: Final = "it is not there any more"
_AFTER_SLASH: Final = "0"  # the next character: no path in a folder comes after the folder's name and this
_OF_FILE: Final = "SELECT size, modified_ns, changed_ns, inode, sha256, is_whole FROM file WHERE path = ?"


class FileState(NamedTuple):
    """What tells one content of a file from another without reading it; times are those of writing and of `stat`."""

    size: int  # bytes
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, descriptor: int) -> FileState:
        """The state of an open file."""
        status = os.fstat(descriptor)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class ScannedFiles:
    """The files that a scan has found, by path relative to ``--src``. Each process has a connection of its own."""

    def __init__(self, table: Path) -> None:
        self.table = table.absolute()
        self._token = secrets.token_hex(8)  # a later scan may write a table of the same name
        self._open: sqlite3.Connection | None = None
        self._last: tuple[str, tuple[Any, ...] | None] | None = None  # a file is asked about several times in a row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScannedFiles) and self._token == other._token

    def __hash__(self) -> int:
        return hash(self._token)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # a connection does not cross processes

    def close(self) -> None:
        """Close the table; it is opened again when needed."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def has(self, path: str) -> bool:
        """Whether the scan found a file at ``path``."""
        return self._row(path) is not None

    def paths(self) -> Iterator[str]:
        """The paths of all files, in the order of the scan."""
        return (path for (path,) in self._table().execute("SELECT path FROM file ORDER BY id"))

    def names_in(self, folder: str) -> list[str]:
        """The names of the files right in ``folder``; costs a lookup for each folder in it, whatever lies deeper."""
        prefix = f"{folder}/" if folder else ""
        names: list[str] = []
        after: str | None = prefix
        while after is not None:
            rows = self._table().execute("SELECT path FROM file WHERE path >= ? ORDER BY path", (after,))
            after = None
            for (path,) in rows:
                if not path.startswith(prefix):
                    break
                name, slash, _ = path[len(prefix) :].partition("/")
                if slash:
                    after = f"{prefix}{name}{_AFTER_SLASH}"
                    break
                names.append(name)
        return names

    def has_folder(self, path: str) -> bool:
        """Whether a file lies somewhere in the folder ``path``."""
        bounds = (f"{path}/", f"{path}{_AFTER_SLASH}")
        found = self._table().execute("SELECT 1 FROM file WHERE path > ? AND path < ? LIMIT 1", bounds)
        return not path or found.fetchone() is not None

    def file(self, path: str, descriptor: int) -> BinaryIO:
        """The file of ``descriptor``, which the scan has found at ``path``; compared once more when it is closed."""
        return cast(BinaryIO, io.BufferedReader(_CheckedFile(descriptor, path, self._state(path))))

    def check(self, path: str, descriptor: int) -> None:
        """Raise `BuildError` if the open file is not as it was scanned."""
        compare(path, FileState.of(descriptor), self._state(path))

    def check_content(self, path: str, data: bytes) -> None:
        """Raise `BuildError` if ``data`` is not the whole content that the file had when it was hashed."""
        self._check_sha256(path, lambda: hashlib.sha256(data).hexdigest())

    def check_file(self, path: str, file: BinaryIO) -> None:
        """As `check_content`, for an open file, which is left at its start."""
        self._check_sha256(path, lambda: hashlib.file_digest(file, "sha256").hexdigest())  # type: ignore[arg-type]
        file.seek(0)

    def missing(self, path: str) -> BuildError:
        """The error about a file that was scanned and cannot be opened any more."""
        return changed(path, GONE)

    def digest(self, paths: Sequence[str]) -> str | None:
        """One SHA-256 over the contents of ``paths``; ``None`` if one was not found."""
        total = hashlib.sha256()
        for path in paths:
            row = self._row(path)
            if row is None:
                return None
            total.update(bytes.fromhex(row[4]))
        return total.hexdigest()

    def _state(self, path: str) -> FileState:
        row = self._row(path)
        assert row is not None  # it was asked for by `has`
        return FileState(*row[:4])

    def _check_sha256(self, path: str, found: Any) -> None:
        row = self._row(path)
        assert row is not None  # it was opened
        if row[5] and found() != row[4]:
            raise changed(path, "it has other contents")

    def _table(self) -> sqlite3.Connection:
        if self._open is None:
            uri = f"{self.table.as_uri()}?mode=ro&immutable=1"
            self._open = sqlite3.connect(uri, uri=True, check_same_thread=False)
        return self._open

    def _row(self, path: str) -> tuple[Any, ...] | None:
        last = self._last  # another thread may replace it
        if last is None or last[0] != path:
            last = self._last = path, self._table().execute(_OF_FILE, (path,)).fetchone()
        return last[1]


class _CheckedFile(io.FileIO):
    """A file that is compared with its scan, once more when it is closed."""

    def __init__(self, descriptor: int, path: str, scanned: FileState) -> None:
        super().__init__(descriptor, "rb")
        self._path = path
        self._scanned = scanned

    def close(self) -> None:
        if self.closed:
            return
        try:
            compare(self._path, FileState.of(self.fileno()), self._scanned)
        finally:
            super().close()


def compare(path: str, now: FileState, then: FileState) -> None:
    """Raise `BuildError` if the file at ``path`` is not as it was ``then``."""
    if now.size != then.size:
        raise changed(path, f"it had {then.size:,} bytes and has {now.size:,}")
    if now != then:
        raise changed(path, "it was written to or replaced")


def changed(path: str, what: str) -> BuildError:
    """The error about a file that is not what it was when the build looked at it before."""
    return BuildError(f"{path}: changed while the build was running ({what}); run the same command again")
