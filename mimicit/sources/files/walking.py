"""List all files beneath ``--src``, through links where they may be followed."""

from __future__ import annotations

import functools
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from mimicit.errors import SourceError
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.paths import LINK_NOT_FOLLOWED, beneath, native_path, shown_path, text_of_path
from mimicit.sources.files.readable import BLOBS, LINK_OUTSIDE, SNAPSHOTS, ReadableFolders

OnSkip: TypeAlias = Callable[[str, str], None]
"""Called with the path of what is not listed, and why."""

_MOST_FOLDER_LINKS: Final = 10_000
_MOST_FOLDERS: Final = 256  # nested; each is opened step by step from the root


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
