"""The folder ``--src``, and the promise that nothing outside it is ever opened.

Every path that comes out of an input file goes through `Root.resolve`. A path is opened component by component
without following links, so neither ``..`` nor a symbolic link (also one that is swapped in later) leads outside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from mimicit.errors import RejectedError, SourceError

__all__ = ["Root"]

_MAX_PATH_CHARACTERS = 4096


class Root:
    """The regular files beneath ``folder``; symbolic links, hidden files and special files are not among them."""

    def __init__(self, folder: Path, *, exclude: Collection[Path] = ()) -> None:
        self.folder = folder.resolve()
        self._exclude = frozenset(path.resolve() for path in exclude)
        if not self.folder.is_dir():
            raise SourceError(f"{folder}: no such folder; give --src the folder that holds the raw data")

    def walk(self) -> Iterator[tuple[str, int]]:
        """All regular files as (relative POSIX path, bytes), in an order that depends on the names alone."""
        yield from self._walk(self.folder, "")

    def resolve(self, path: str) -> str:
        """``path``, as written in an input file, as a relative POSIX path of a regular file under the root.

        `RejectedError` with reason ``outside_root`` (absolute, ``..`` past the root, any symbolic link),
        ``missing_file`` (absent, a folder, a device) or ``malformed`` (a name no file can have).
        """
        if not path or len(path) > _MAX_PATH_CHARACTERS or "\0" in path:
            raise RejectedError("malformed", f"{path[:80]!r} is no file name")
        steps: list[str] = []
        for step in path.replace("\\", "/").split("/"):
            if step == "..":
                if not steps:
                    raise RejectedError("outside_root", f"{path!r} leads out of the source folder")
                steps.pop()
            elif step not in ("", "."):
                steps.append(step)
        if path.startswith(("/", "\\")) or (len(path) > 1 and path[1] == ":" and path[0].isalpha()):
            raise RejectedError("outside_root", f"{path!r} is absolute; write it relative to the source folder")
        clean = "/".join(steps)
        self.open(clean).close()
        return clean

    def open(self, path: str) -> BinaryIO:
        """The file at the relative POSIX ``path`` for reading bytes; errors as in `resolve`."""
        return os.fdopen(self._open_descriptor(path), "rb")

    def size(self, path: str) -> int:
        """Bytes of the file at ``path``; errors as in `resolve`."""
        with self.open(path) as file:
            return os.fstat(file.fileno()).st_size

    def _open_descriptor(self, path: str) -> int:
        *folders, name = path.split("/") if path else [""]
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
        return RejectedError("missing_file", f"{path!r} is not under the source folder")

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

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(f"{folder}: cannot be listed ({error.strerror})") from None
        for entry in entries:
            if entry.name.startswith(".") or Path(entry.path) in self._exclude:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{prefix}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False).st_size
