"""The folders that may be read, ``--src`` and those that a user allows, and the promise that nothing else is opened.

Every file of the input is opened here, folder by folder and without following links, so neither ``..`` nor a symbolic
link (even if it is swapped in later) leads outside. With ``follow_links``, the links in a path are resolved first; the
resulting place must lie beneath one of the folders, and is then opened in the same way from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from mimicit.errors import RejectedError, SourceError
from mimicit.sources.files.paths import (
    LINK_NOT_FOLLOWED,
    Entry,
    beneath,
    list_folder,
    native_path,
    open_beneath,
    shown_path,
)

UNREADABLE: Final = "cannot be read: permission denied"
"""How the detail of a `RejectedError` ends if the file is there, but not readable."""

LINK_OUTSIDE: Final = "leads outside --src and every --allow-root, to "
"""How the reason begins why a link was not followed; the place comes after it."""

BLOBS, SNAPSHOTS = "blobs", "snapshots"
"""The folders of a cache of the Hugging Face Hub: files by their hashes, and links to these by their names."""

_FOLDERS_NAMED: Final = 3  # in a hint


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
        place = self.folder
        for step in path.split("/"):
            place = place / native_path(step)
            try:
                if place.is_symlink():
                    return True
            except (OSError, ValueError):
                return False
        return False


def _hub_blobs(folder: Path) -> Path | None:
    """The blobs that the links in ``folder`` lead to, if it is a snapshot in a cache of the Hub, or lies in one."""
    for place in (folder, *folder.parents):
        if place.name == SNAPSHOTS:
            blobs = place.parent / BLOBS
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None
