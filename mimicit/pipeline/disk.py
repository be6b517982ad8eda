"""Report disk errors of a build in one line that names the file and says that the same command resumes the build."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mimicit.errors import BuildError

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
    """A new name next to ``path``, for writing the file before it is renamed to ``path``.

    No two are the same: on a cluster, a worker that is taken for dead may still write while another one does its task
    again.
    """
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}{_SCRATCH_SUFFIX}")


def remove_scratch(*folders: Path) -> None:
    """Remove what killed processes have left under names by `scratch`; one that still runs fails then, rightly."""
    for folder in folders:
        for path in folder.glob(f"*{_SCRATCH_SUFFIX}"):
            path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an `OSError` of the block name ``path`` if it names no file (a write does not know its file's name)."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def reported(out: Path, work: Path) -> Iterator[None]:
    """Turn errors of the disk within the block into a `BuildError`.

    It names the file; ``out`` if that is unknown, and the folder ``work`` for the tables of the build.
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
    """The error of the disk in words, or ""; it may be the context of another, from undoing a transaction."""
    while error is not None:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
            if code in _OF_THE_DISK:
                return _OF_THE_DISK[code]
        error = error.__context__
    return ""
