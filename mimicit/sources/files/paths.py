"""Paths as records write them, and the promise that they lead to nothing but ``--src`` and the folders that a user
allows.

Names are checked, and their spellings listed, before any file is looked for. Every file of the input is opened here,
folder by folder and without following links, so neither ``..`` nor a symbolic link (even if it is swapped in later)
leads outside. With ``follow_links``, the links in a path are resolved first; the resulting place must lie beneath one
of the folders, and is then opened in the same way from there.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from mimicit.errors import RejectedError, SourceError

LINK_NOT_FOLLOWED: Final = "symbolic links are not followed"
"""Why an `Entry` that is a link is skipped."""
_MAX_PATH_CHARACTERS: Final = 4096

UNREADABLE: Final = "cannot be read: permission denied"
"""How the detail of a `RejectedError` ends if the file is there, but not readable."""

LINK_OUTSIDE: Final = "leads outside --src and every --allow-root, to "
"""How the reason begins why a link was not followed; the place comes after it."""

BLOBS, SNAPSHOTS = "blobs", "snapshots"
"""The folders of a cache of the Hugging Face Hub: files by their hashes, and links to these by their names."""

_FOLDERS_NAMED: Final = 3  # in a hint


class Entry(NamedTuple):
    """What lies in a folder under a ``name``."""

    name: str
    size: int | None  # bytes; None: a folder
    why: str  # why it is skipped, else empty


def list_folder(descriptor: int) -> list[Entry]:
    """List the open folder, sorted by name, and close it; OSError if it cannot be listed."""
    try:
        with os.scandir(descriptor) as entries:
            return sorted(map(_entry, entries))
    finally:
        os.close(descriptor)


def _entry(entry: os.DirEntry[str]) -> Entry:
    name = text_of_path(entry.name)
    if not is_utf8(name):
        return Entry(name, 0, "the name is not UTF-8")
    if name.startswith("."):
        return Entry(name, 0, "hidden files and folders are not looked into")
    if entry.is_symlink():
        return Entry(name, 0, LINK_NOT_FOLLOWED)
    if entry.is_dir(follow_symlinks=False):
        return Entry(name, None, "")
    if not entry.is_file(follow_symlinks=False):
        return Entry(name, 0, "not a regular file")
    return Entry(name, entry.stat(follow_symlinks=False).st_size, "")


def native_path(path: str) -> str:
    """``path`` as functions of the system take it; it differs only if Python's encoding of file names is not UTF-8.

    Here, file names are UTF-8 whatever the locale says: with ``LC_ALL=C`` Python may read them as ASCII.
    """
    return path if path.isascii() else os.fsdecode(path.encode("utf-8", "surrogateescape"))


def text_of_path(path: str) -> str:
    """The inverse of `native_path`; a byte that is not UTF-8 stays half a surrogate."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "surrogateescape")


def shown_path(path: str) -> str:
    """``path`` for messages, with bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_beneath(folder: Path, path: str, flags: int = 0) -> int:
    """The descriptor of what lies at ``path`` in ``folder``, opened step by step; a link on the way is an OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not path:
        return descriptor
    *folders, name = native_path(path).split("/")
    try:
        for step in folders:
            inner = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # O_NONBLOCK: opening a pipe must not wait for a writer.
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def beneath(base: Path, real: str) -> str | None:
    """The path of ``real`` relative to ``base``, empty if they are equal; None if it lies elsewhere."""
    start = f"{str(base).rstrip('/')}/"
    if real == str(base):
        return ""
    return real[len(start) :] if real.startswith(start) else None


def spellings(path: str) -> tuple[str, ...]:
    """``path`` as written, then with its accented letters composed (NFC), then decomposed (NFD), each once."""
    if path.isascii():
        return (path,)
    return tuple(dict.fromkeys((path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))))


def is_utf8(name: str) -> bool:
    """Whether JSON, which is UTF-8, can write the name; it cannot write lone surrogates or bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_absolute(path: str) -> bool:
    """Whether ``path`` begins at the root of a disk, also one of Windows."""
    return path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":" and path[0].isalpha())


def check_name(path: str) -> None:
    """Raise `RejectedError` ``malformed`` if no file can have this name or path."""
    if not path or len(path) > _MAX_PATH_CHARACTERS or "\0" in path or not is_utf8(path):
        raise RejectedError("malformed", f"{path[:80]!r} is no file name")


def check_relative(path: str) -> None:
    """As `check_name`, and raise ``missing_file`` for a URL, and ``outside_root`` for an absolute path."""
    check_name(path)
    if "://" in path[:16]:
        raise RejectedError("missing_file", f"{path[:200]!r} is a URL; nothing is fetched, download it beforehand")
    if is_absolute(path):
        raise RejectedError("outside_root", f"{path!r} is absolute; write it relative to the source folder")


def joined(folder: str, path: str) -> str:
    """``path`` from ``folder`` on, in POSIX form; `RejectedError` ``outside_root`` if ``..`` leads out of the root."""
    steps = folder.split("/") if folder else []
    for step in path.replace("\\", "/").split("/"):
        if step == "..":
            if not steps:
                raise RejectedError("outside_root", f"{path!r} leads out of the source folder")
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    return "/".join(steps)


class ReadableFolders:
    """``folder``, and with ``follow_links`` what links in it may lead to: ``folder`` itself and the folders ``allow``.

    A folder of these that is a snapshot in a cache of the Hub also allows the blobs of that cache.
    """

    def __init__(self, folder: Path, *, follow_links: bool, allow: Sequence[Path]) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.follow_links = follow_links
        self.allowed = tuple(Path(os.path.realpath(path)) for path in allow)
        for place, given in zip((self.folder, *self.allowed), (folder, *allow), strict=True):
            if not os.path.isdir(place):  # also for names that no file can have, where Path.is_dir raises
                option = "--src the folder that holds the raw data" if place == self.folder else "--allow-root a folder"
                raise SourceError(f"{given}: no such folder; give {option}")
        blobs = filter(None, map(_hub_blobs, (self.folder, *self.allowed)))
        self._reachable = (self.folder, *self.allowed, *blobs) if follow_links else (self.folder,)

    def open(self, path: str, flags: int = 0) -> int:
        """The descriptor of what lies at the relative POSIX ``path``; OSError or ValueError if it cannot be opened."""
        try:
            return open_beneath(self.folder, path, flags)
        except OSError:
            place = self.reached(self.real(path)) if self.follow_links and self._meets_link(path) else None
            if place is None:
                raise
            return open_beneath(*place, flags)

    def listed(self, prefix: str) -> list[Entry]:
        """What lies in the folder ``prefix`` (empty, or with a slash at its end); `SourceError` if unreadable."""
        # Opened like a file, so that a folder swapped for a link between listing and descending is not followed.
        try:
            return list_folder(self.open(prefix.rstrip("/"), os.O_DIRECTORY))
        except OSError as error:
            raise SourceError(f"{self.folder / native_path(prefix)}: cannot be listed ({error.strerror})") from None

    def has_folder(self, path: str) -> bool:
        """Whether a folder lies at the relative POSIX ``path``."""
        try:
            os.close(self.open(path, os.O_DIRECTORY))
        except (OSError, ValueError):
            return False
        return True

    def real(self, path: str) -> str:
        """Where the links on ``path`` lead."""
        return os.path.realpath(self.folder / native_path(path))

    def reached(self, real: str) -> tuple[Path, str] | None:
        """A folder that may be read, and the path in it, of the place ``real``; None for any other place."""
        inside = ((base, beneath(base, real)) for base in self._reachable)
        return next(((base, path) for base, path in inside if path is not None), None)

    def fault(self, path: str, error: Exception) -> RejectedError:
        """Why ``path`` could not be opened, which raised ``error``."""
        if self._meets_link(path):
            if not self.follow_links:
                advice = self._options_for([path])
                return RejectedError("outside_root", f"{path!r} passes a symbolic link; to follow it, add {advice}")
            if self.reached(real := self.real(path)) is None:
                return RejectedError("outside_root", f"{path!r} {LINK_OUTSIDE}{real!r}")
        if isinstance(error, PermissionError):
            return RejectedError("missing_file", f"{path!r} {UNREADABLE}")
        return RejectedError("missing_file", f"{path!r} is not in the source folder")

    def links_advice(self, skipped: Iterable[tuple[str, str]]) -> str:
        """One line about the links among the ``skipped`` (path, why): their number, and the options to read them.

        Empty if there are none.
        """
        links = [path for path, why in skipped if why == LINK_NOT_FOLLOWED or why.startswith(LINK_OUTSIDE)]
        if not links:
            return ""
        what = "1 symbolic link was" if len(links) == 1 else f"{len(links):,} symbolic links were"
        options = self._options_for(links)
        return f"{what} passed over, such as {links[0]}; to read what they lead to, add {options}"

    def _options_for(self, links: Iterable[str]) -> str:
        folders: dict[str, None] = {}
        for link in links:
            real = self.real(link)
            inside = (self.folder, *self.allowed, _hub_blobs(self.folder))
            if any(base is not None and beneath(base, real) is not None for base in inside):
                continue
            if os.path.exists(real):
                folders[real if os.path.isdir(real) else os.path.dirname(real)] = None
        named = [shown_path(folder) for folder in folders if os.path.dirname(folder) not in folders]
        more = " ..." if len(named) > _FOLDERS_NAMED else ""
        options = [] if self.follow_links else ["--follow-links"]
        return " ".join([*options, *(f"--allow-root {folder}" for folder in named[:_FOLDERS_NAMED])]) + more

    def _meets_link(self, path: str) -> bool:
        place = str(self.folder)
        for step in path.split("/"):
            place = f"{place}/{native_path(step)}"
            if os.path.islink(place):  # False for what is not there, and for names that no file can have
                return True
        return False


def _hub_blobs(folder: Path) -> Path | None:
    """The blobs that the links in ``folder`` lead to, if it is a snapshot in a cache of the Hub, or lies in one."""
    for place in (folder, *folder.parents):
        if place.name == SNAPSHOTS:
            blobs = place.parent / BLOBS
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None
