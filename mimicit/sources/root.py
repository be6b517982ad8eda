"""The folder ``--src``, and the promise that nothing outside it is ever opened.

Every path that comes out of an input file goes through `Root.resolve`. A path is opened component by component
without following links, so neither ``..`` nor a symbolic link (also one that is swapped in later) leads outside.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mimicit.errors import RejectedError, SourceError

__all__ = ["Root"]

_MAX_PATH_CHARACTERS = 4096


class Root:
    """The regular files beneath ``folder``; symbolic links, hidden files and special files are not among them.

    Two roots of one folder without the same files are equal.
    """

    def __init__(self, folder: Path, *, exclude: Collection[Path] = ()) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._exclude = frozenset(path.resolve() for path in exclude)
        if not os.path.isdir(self.folder):  # also for names that no file can have, where Path.is_dir raises
            raise SourceError(f"{folder}: no such folder; give --src the folder that holds the raw data")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and (self.folder, self._exclude) == (other.folder, other._exclude)

    def __hash__(self) -> int:
        return hash((self.folder, self._exclude))

    def walk(self, on_skip: Callable[[str, str], None] | None = None) -> Iterator[tuple[str, int]]:
        """All regular files as (relative POSIX path, bytes), in an order that depends on the names alone.

        ``on_skip(path, why)`` is told of links, special files, hidden files and folders, and names that are not UTF-8
        (which no JSON file can write, with the odd bytes escaped). The excluded folders are passed over without a word.
        """
        folders = [""]
        while folders:
            prefix = folders.pop()
            inner: list[str] = []
            for name, size, why in self._listed(prefix):
                path = prefix + name
                if self.folder / path in self._exclude:
                    continue
                if why:
                    if on_skip is not None:
                        on_skip(path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), why)
                elif size is None:
                    inner.append(f"{path}/")
                else:
                    yield path, size
            folders.extend(reversed(inner))

    def resolve(self, path: str, *, beside: Sequence[str] = ("",)) -> str:
        """``path``, as written in an input file, as a relative POSIX path of a regular file under the root.

        It is taken relative to each folder of ``beside`` in turn (folders under the root; ``""`` is the root); the
        first that holds such a file wins, and if none does, the fault found beside the first is reported. Where no
        file has the name as it is written, one that spells its accents in the other form of Unicode will do (macOS
        and its archives take letters apart, what people type does not).

        `RejectedError` with reason ``outside_root`` (absolute, ``..`` past the root, any symbolic link),
        ``missing_file`` (absent, a folder, a device, a URL) or ``malformed`` (a name no file can have).
        """
        _check_name(path)
        faults: list[RejectedError] = []
        for spelling in _spellings(path):
            for folder in dict.fromkeys(beside):
                try:
                    clean = _joined(folder, spelling)
                    self.open(clean).close()
                except RejectedError as fault:
                    faults.append(fault)
                else:
                    return clean
        raise faults[0]

    def open(self, path: str) -> BinaryIO:
        """The file at the relative POSIX ``path`` for reading bytes; errors as in `resolve`."""
        return os.fdopen(self._open_descriptor(path), "rb")

    def open_input(self, path: str) -> BinaryIO:
        """The file at ``path`` that a source is made of: like `open`, but its absence is a `SourceError`."""
        try:
            return self.open(path)
        except RejectedError as error:
            raise SourceError(f"{path}: cannot be opened: {error.detail}") from None

    def size(self, path: str) -> int:
        """Bytes of the file at ``path``; errors as in `resolve`."""
        with self.open(path) as file:
            return os.fstat(file.fileno()).st_size

    def names_in(self, folder: str) -> list[str]:
        """The names of the regular files in ``folder`` (relative POSIX path) itself; none where it is no folder."""
        try:
            entries = self._listed(f"{folder}/" if folder else "")
        except (SourceError, ValueError):
            return []
        return [entry.name for entry in entries if entry.size is not None and not entry.why]

    def _open_descriptor(self, path: str) -> int:
        *folders, name = path.split("/")
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for step in folders:
                inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            # O_NONBLOCK: opening a pipe must not wait for a writer.
            inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
        except (OSError, ValueError) as error:
            raise self._rejection(path, error) from None
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(os.fstat(inner).st_mode):
            os.close(inner)
            raise RejectedError("missing_file", f"{path!r} is not a regular file")
        return inner

    def _rejection(self, path: str, error: Exception) -> RejectedError:
        if self._meets_link(path):
            return RejectedError("outside_root", f"{path!r} passes a symbolic link; links are not followed")
        if isinstance(error, PermissionError):
            return RejectedError("missing_file", f"{path!r} cannot be read: permission denied")
        similar = self._with_other_capitals(path)
        mend = f"there is {similar!r}" if similar else "write paths relative to it, or to the file that names them"
        return RejectedError("missing_file", f"{path!r} is not in the source folder; {mend}")

    def _with_other_capitals(self, path: str) -> str | None:
        """The file there is where the ending of ``path`` is written in small letters, or in capitals."""
        stem, dot, ending = path.rpartition(".")
        candidates = (f"{stem}{dot}{other}" for other in (ending.lower(), ending.upper()))
        return next((found for found in candidates if dot and os.path.isfile(self.folder / found)), None)

    def _meets_link(self, path: str) -> bool:
        place = self.folder
        for step in path.split("/"):
            place = place / step
            try:
                if place.is_symlink():
                    return True
            except (OSError, ValueError):
                return False
        return False

    def _listed(self, prefix: str) -> list[_Entry]:
        # Opened like a file, so that a folder swapped for a link between listing and descending is not followed.
        try:
            descriptor = self._open_folder(prefix)
            try:
                with os.scandir(descriptor) as entries:
                    return sorted(map(_entry, entries))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SourceError(f"{self.folder / prefix}: cannot be listed ({error.strerror})") from None

    def _open_folder(self, prefix: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.folder, flags)
        for step in prefix.split("/")[:-1]:
            try:
                inner = os.open(step, flags, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor


class _Entry(NamedTuple):
    name: str
    size: int | None  # bytes; None: a folder
    why: str  # why it is skipped, else empty


def _entry(entry: os.DirEntry[str]) -> _Entry:
    if not _is_utf8(entry.name):
        return _Entry(entry.name, 0, "the name is not UTF-8")
    if entry.name.startswith("."):
        return _Entry(entry.name, 0, "hidden files and folders are not looked into")
    if entry.is_symlink():
        return _Entry(entry.name, 0, "symbolic links are not followed")
    if entry.is_dir(follow_symlinks=False):
        return _Entry(entry.name, None, "")
    if not entry.is_file(follow_symlinks=False):
        return _Entry(entry.name, 0, "not a regular file")
    return _Entry(entry.name, entry.stat(follow_symlinks=False).st_size, "")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spellings(path: str) -> tuple[str, ...]:
    """``path`` as it is written, then with its accented letters whole, then with them taken apart."""
    if path.isascii():
        return (path,)
    return tuple(dict.fromkeys((path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))))


def _check_name(path: str) -> None:
    if not path or len(path) > _MAX_PATH_CHARACTERS or "\0" in path or not _is_utf8(path):
        raise RejectedError("malformed", f"{path[:80]!r} is no file name")
    if "://" in path[:16]:
        raise RejectedError("missing_file", f"{path[:200]!r} is a URL; nothing is fetched, download it beforehand")
    if path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
        raise RejectedError("outside_root", f"{path!r} is absolute; write it relative to the source folder")


def _joined(folder: str, path: str) -> str:
    steps = folder.split("/") if folder else []
    for step in path.replace("\\", "/").split("/"):
        if step == "..":
            if not steps:
                raise RejectedError("outside_root", f"{path!r} leads out of the source folder")
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    return "/".join(steps)
