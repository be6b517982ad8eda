"""The names of all files of the input, searched by the ends of their paths: a record may hold a path from elsewhere.

A temporary table on disk, sorted by name and then by the folders from the innermost to the outermost one; memory is
limited to SQLite's page cache. It costs a walk and some 5 microseconds a file, and is made only if a path is not found
as written. The answers depend on the names alone, not on their order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Final

from mimicit.sources.files.media_names import named_kind

_CACHE_KIB: Final = 32 << 10
_NEIGHBOURS: Final = 8  # in the order of names, on either side
_LAST: Final = "\U0010ffff"


class FileNames:
    """The relative POSIX ``paths``, each once."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a file that is deleted with the connection
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        # Case-folded names first, so that names that differ only in case are neighbours.
        self._db.execute(
            "CREATE TABLE file(folded TEXT, name TEXT, folders TEXT, PRIMARY KEY(folded, name, folders)) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR IGNORE INTO file VALUES (?, ?, ?)", map(_row, paths))
        self._db.execute("COMMIT")
        (most,) = self._db.execute(
            "SELECT max(length(folders) - length(replace(folders, '/', ''))) FROM file"
        ).fetchone()
        self.depth: int = (most or 0) + 1
        """The most steps that a path has."""
        self._has_folders = False

    def ending_with(self, steps: tuple[str, ...], most: int) -> list[str]:
        """Up to ``most`` of the paths that end with the whole ``steps``, the last of which is the name of the file."""
        folded, name, folders = _row("/".join(steps))
        rows = self._db.execute(
            "SELECT folders, name FROM file WHERE folded = ? AND name = ? AND folders >= ? AND folders < ?"
            " ORDER BY folders LIMIT ?",
            (folded, name, folders, folders + _LAST, most),
        )
        return [_path(*row) for row in rows]

    def media_folder(self, steps: Sequence[str], *, is_whole: bool = False) -> str | None:
        """A folder that itself holds a picture or clip, and whose path ends with (``is_whole``: is) the ``steps``."""
        if not self._has_folders:
            self._db.execute("CREATE TABLE folder(folders TEXT PRIMARY KEY) WITHOUT ROWID")
            rows = self._db.execute("SELECT folders, name FROM file")
            found = ((folders,) for folders, name in rows if named_kind(name) is not None)
            self._db.executemany("INSERT OR IGNORE INTO folder VALUES (?)", found)
            self._has_folders = True
        _, _, folders = _row("/".join((*steps, "")))
        row = self._db.execute(
            "SELECT folders FROM folder WHERE folders >= ? AND folders < ? ORDER BY folders LIMIT 1",
            (folders, folders + ("\0" if is_whole else _LAST)),
        ).fetchone()
        return None if row is None else _path(row[0], "").rstrip("/")

    def nearest(self, path: str) -> str | None:
        """The path most like ``path``: with the same name in another case, else with a similar name, else None."""
        folded, _, folders = _row(path)
        row = self._db.execute(
            "SELECT folders, name FROM file WHERE folded = ? ORDER BY folders <> ?, name, folders LIMIT 1",
            (folded, folders),
        ).fetchone()
        if row is not None:
            return _path(*row)
        around = [
            name
            for condition in ("folded < ? ORDER BY folded DESC", "folded > ? ORDER BY folded")
            for (name,) in self._db.execute(
                f"SELECT DISTINCT folded FROM file WHERE {condition} LIMIT ?", (folded, _NEIGHBOURS)
            )
        ]
        same_stem = [name for name in around if PurePosixPath(name).stem == PurePosixPath(folded).stem]
        for name in (*same_stem, *get_close_matches(folded, around, 1)):
            row = self._db.execute(
                "SELECT folders, name FROM file WHERE folded = ? ORDER BY folders <> ?, name, folders LIMIT 1",
                (name, folders),
            ).fetchone()
            return _path(*row)
        return None


def _row(path: str) -> tuple[str, str, str]:
    """The case-folded name, the name, and the folders, each with a slash, the innermost first."""
    *folders, name = path.split("/")
    return name.casefold(), name, "".join(f"{folder}/" for folder in reversed(folders))


def _path(folders: str, name: str) -> str:
    return "/".join((*reversed(folders.split("/")[:-1]), name))
