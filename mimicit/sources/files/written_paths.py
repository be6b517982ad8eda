"""Paths as records write them, before any file is looked for: which are names at all, and how they are spelled."""

from __future__ import annotations

import unicodedata
from typing import Final

from mimicit.errors import RejectedError

__all__ = ["check_name", "check_relative", "is_absolute", "is_utf8", "joined", "spellings"]

_MAX_PATH_CHARACTERS: Final = 4096


def spellings(path: str) -> tuple[str, ...]:
    """``path`` as it is written, then with its accented letters whole, then with them taken apart."""
    if path.isascii():
        return (path,)
    return tuple(dict.fromkeys((path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))))


def is_utf8(name: str) -> bool:
    """Whether JSON, which is UTF-8, can write the name; it cannot write half a surrogate, or an odd byte of a file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_absolute(path: str) -> bool:
    """Whether ``path`` begins at the root of a disk, also one of Windows."""
    return path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":" and path[0].isalpha())


def check_name(path: str) -> None:
    """`RejectedError` ``malformed`` where no file can have this name or path."""
    if not path or len(path) > _MAX_PATH_CHARACTERS or "\0" in path or not is_utf8(path):
        raise RejectedError("malformed", f"{path[:80]!r} is no file name")


def check_relative(path: str) -> None:
    """As `check_name`; also ``missing_file`` for a URL, and ``outside_root`` for an absolute path."""
    check_name(path)
    if "://" in path[:16]:
        raise RejectedError("missing_file", f"{path[:200]!r} is a URL; nothing is fetched, download it beforehand")
    if is_absolute(path):
        raise RejectedError("outside_root", f"{path!r} is absolute; write it relative to the source folder")


def joined(folder: str, path: str) -> str:
    """``path`` from ``folder`` on, in POSIX form; `RejectedError` ``outside_root`` where ``..`` leads out of it all."""
    steps = folder.split("/") if folder else []
    for step in path.replace("\\", "/").split("/"):
        if step == "..":
            if not steps:
                raise RejectedError("outside_root", f"{path!r} leads out of the source folder")
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    return "/".join(steps)
