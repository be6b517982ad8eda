"""Paths as records write them, and the files and folders that they lead to.

Names are checked, and their spellings listed, before any file is looked for. Files are opened step by step from a
folder, so that no link on the way is ever followed.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Final, NamedTuple

from mimicit.errors import RejectedError

LINK_NOT_FOLLOWED: Final = "symbolic links are not followed"
"""Why an `Entry` that is a link is skipped."""
_MAX_PATH_CHARACTERS: Final = 4096


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
