"""What a build says when the disk refuses: one line that names the file, and that the same command goes on."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mimicit.errors import BuildError

__all__ = ["naming", "remove_scratch", "reported", "scratch"]

_DAMAGED: Final = "a table in it is damaged; remove this folder"
_OF_THE_DISK: Final = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_FULL: "No space left on device",
    sqlite3.SQLITE_IOERR: "cannot be read or written; is the disk full?",
    sqlite3.SQLITE_READONLY: "cannot be written",
}
_SCRATCH_SUFFIX: Final = ".part"
_PRIMARY_CODE: Final = 0xFF  # the higher bits say more about what SQLite was doing


def scratch(path: Path) -> Path:
    """A new name beside ``path`` to write it under, before it gets its own.

    No two are the same: on a cluster, a worker that was given up for dead may still write when another one does its
    task again.
    """
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{_SCRATCH_SUFFIX}")


def remove_scratch(*folders: Path) -> None:
    """Remove what killed processes have left under names by `scratch`; a living one fails then, which is right."""
    for folder in folders:
        for path in folder.glob(f"*{_SCRATCH_SUFFIX}"):
            path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an `OSError` of the block name ``path``, where it names no file (a write does not know its file's name)."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def reported(out: Path, work: Path) -> Iterator[None]:
    """Turn what the system refuses within the block into a `BuildError`.

    It names the file; ``out`` where that is unknown, and the folder ``work`` for the tables of the build.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise _go_on(error.filename or out, why) from error
    except sqlite3.Error as error:
        why = _refusal(error)
        if not why:
            raise  # our own mistake
        raise _go_on(work, why) from error


def _go_on(place: str | Path, why: str) -> BuildError:
    return BuildError(f"{place}: {why}; fix this and run the same command again to go on")


def _refusal(error: BaseException | None) -> str:
    """What the system refused, in words, or else nothing; undoing a transaction may have failed on top of it."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
            if code in _OF_THE_DISK:
                return _OF_THE_DISK[code]
        error = error.__context__
    return ""
