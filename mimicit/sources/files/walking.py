"""All files beneath ``--src``: listed, through links where they may be followed, and searched by the ends of their
paths.

A record may hold a path from elsewhere. `FileNames` is a temporary table on disk, sorted by name and then by the
folders from the innermost to the outermost one; memory is limited to SQLite's page cache. It costs a walk and some 5
microseconds a file, and is made only if a path is not found as written. The answers depend on the names alone, not on
their order.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from mimicit.errors import SourceError
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.paths import (
    BLOBS,
    LINK_NOT_FOLLOWED,
    LINK_OUTSIDE,
    SNAPSHOTS,
    ReadableFolders,
    beneath,
    native_path,
    shown_path,
    text_of_path,
)

OnSkip: TypeAlias = Callable[[str, str], None]
"""Called with the path of what is not listed, and why."""

_MOST_FOLDER_LINKS: Final = 10_000
_MOST_FOLDERS: Final = 256  # nested; each is opened step by step from the root

_CACHE_KIB: Final = 32 << 10
_NEIGHBOURS: Final = 8  # in the order of names, on either side
_LAST: Final = "\U0010ffff"


def walk(folders: ReadableFolders, exclude: Collection[Path], skip: OnSkip) -> Iterator[tuple[str, int]]:
    """All regular files as (relative POSIX path, bytes), without those beneath ``exclude``; see `Root.walk`."""
    walker = _Walker(folders, exclude, skip)
    links: list[str] = []
    yield from walker.files("", links)
    if folders.follow_links:
        yield from walker.files_of_links(links)


class _Walker:
    def __init__(self, folders: ReadableFolders, exclude: Collection[Path], skip: OnSkip) -> None:
        self._folders = folders
        self._exclude = exclude
        self._skip = skip
        self._known: set[tuple[int, int]] = set()  # files that were listed through a link
        self._has_folder = functools.cache(folders.has_folder)

    def files(self, start: str, links: list[str]) -> Iterator[tuple[str, int]]:
        """The files beneath the folder at ``start`` (empty, or with a slash at its end), and the ``links`` there."""
        folders = [start]
        inside = (beneath(self._folders.folder, str(place)) for place in self._exclude)
        excluded = {text_of_path(path) for path in inside if path is not None}
        while folders:
            prefix = folders.pop()
            inner: list[str] = []
            listed = self._folders.listed(prefix)
            names = {entry.name for entry in listed}
            for entry in listed:
                path = prefix + entry.name
                if path in excluded:
                    continue
                if self._folders.follow_links and entry.why == LINK_NOT_FOLLOWED:
                    links.append(path)
                elif entry.why:
                    self._skip(shown_path(path), entry.why)
                elif entry.size is not None:
                    yield path, entry.size
                elif prefix.count("/") >= _MOST_FOLDERS:
                    self._skip(shown_path(path)[:1024], f"lies more than {_MOST_FOLDERS} folders deep")
                elif not (self._folders.follow_links and entry.name == BLOBS and SNAPSHOTS in names):
                    inner.append(f"{path}/")  # blobs are read under the names that the snapshots give them
            folders.extend(reversed(inner))

    def files_of_links(self, links: list[str]) -> Iterator[tuple[str, int]]:
        """The files that ``links`` lead to, and the links in the folders that they lead to, and so on."""
        folder = self._folders.folder
        todo: deque[tuple[str, tuple[str, ...]]] = deque((link, (str(folder),)) for link in sorted(links))
        followed = 0
        while todo:
            link, chain = todo.popleft()
            real = self._folders.real(link)
            if any(beneath(path, real) is not None for path in self._exclude):
                continue
            if self._folders.reached(real) is None:
                self._skip(link, LINK_OUTSIDE + shown_path(real))
                continue
            try:
                found = os.stat(real, follow_symlinks=False)
            except OSError as error:
                self._skip(link, f"the link leads to nothing ({error.strerror})")
                continue
            if stat.S_ISREG(found.st_mode):
                if self._is_first_name(link, real, found):
                    yield link, found.st_size
            elif not stat.S_ISDIR(found.st_mode):
                self._skip(link, "the link leads to no regular file")
            elif _leads_back(real, (os.path.realpath(os.path.dirname(folder / native_path(link))), *chain)):
                self._skip(link, "the link leads back to a folder that it lies in")
            else:
                followed += 1
                if followed > _MOST_FOLDER_LINKS:
                    raise SourceError(f"{folder}: more than {_MOST_FOLDER_LINKS:,} links to folders, up to {link}")
                inner: list[str] = []
                for path, size in self.files(f"{link}/", inner):
                    if self._is_first_name(path, os.path.join(real, path[len(link) + 1 :]), None):
                        yield path, size
                todo.extend((path, (*chain, real)) for path in sorted(inner))

    def _is_first_name(self, path: str, real: str, found: os.stat_result | None) -> bool:
        """Whether to list the file at ``real`` as ``path``, which leads there through a link."""
        if named_kind(path) or path.lower().endswith(".txt"):
            return True
        own = beneath(self._folders.folder, real)
        if own is not None and not any(step.startswith(".") for step in own.split("/")) and not self._in_blobs(own):
            return False  # it is listed under its own name
        try:
            found = found or os.stat(real, follow_symlinks=False)
        except OSError:
            return True  # reading it will say what is wrong
        is_first = (found.st_dev, found.st_ino) not in self._known
        self._known.add((found.st_dev, found.st_ino))
        return is_first

    def _in_blobs(self, path: str) -> bool:
        steps = path.split("/")
        blobs = [number for number, step in enumerate(steps[:-1]) if step == BLOBS]
        return any(self._has_folder("/".join((*steps[:number], SNAPSHOTS))) for number in blobs)


def _leads_back(real: str, chain: Iterable[str]) -> bool:
    """Whether the folder ``real`` is one of ``chain``, or holds one of them."""
    return any(beneath(Path(real), folder) is not None for folder in chain)


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
