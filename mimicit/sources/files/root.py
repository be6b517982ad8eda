"""The folder ``--src``, and the promise that nothing outside of it and of the folders that a user allows is opened.

Every file of the input is opened here, folder by folder and without following links, so neither ``..`` nor a symbolic
link (even if it is swapped in later) leads outside. With ``follow_links``, the links in a path are resolved first; the
resulting place must lie beneath ``--src`` or one of the allowed folders, and is then opened in the same way from there.
"""

from __future__ import annotations

import copy
import os
import posixpath
import stat
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from mimicit.errors import RejectedError, SourceError, UsageError
from mimicit.sources.files.file_names import FileNames
from mimicit.sources.files.media_names import named_kind
from mimicit.sources.files.paths import (
    LINK_NOT_FOLLOWED,
    Entry,
    beneath,
    check_relative,
    is_absolute,
    joined,
    list_folder,
    native_path,
    open_beneath,
    spellings,
    text_of_path,
)
from mimicit.sources.files.scanned import ScannedFiles

_T = TypeVar("_T")
_MOST_KNOWN: Final = 1 << 16

UNREADABLE: Final = "cannot be read: permission denied"
"""How the detail of a `RejectedError` ends if the file is there, but not readable."""

_LINK_OUTSIDE: Final = "leads outside --src and every --allow-root, to "
_MOST_FOLDER_LINKS: Final = 10_000
_FOLDERS_NAMED: Final = 3  # in a hint
_MOST_FOLDERS: Final = 256  # nested; each is opened step by step from the root
_BLOBS, _SNAPSHOTS = "blobs", "snapshots"  # of a cache of the Hugging Face Hub

OnSkip = Callable[[str, str], None]


class Root:
    """The regular files beneath ``folder``; hidden files, special files and symbolic links are not among them.

    With ``follow_links``, links are followed to what lies beneath ``folder`` or the folders ``allow``. A folder of
    these that is a snapshot in a cache of the Hub also allows the ``blobs`` of that cache. ``media_roots`` maps the
    beginnings of paths in records to paths relative to ``folder``. ``found`` counts the ways in which the files of
    records were found (see `mimicit.sources.files.finding`).
    ``scratch`` is a folder, made when it is needed, for the unpacked copies of compressed files; None: one of the
    process.

    Two roots with the same arguments are equal, whatever their ``scratch``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        exclude: Collection[Path] = (),
        follow_links: bool = False,
        allow: Sequence[Path] = (),
        media_roots: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.scratch = scratch
        self.given = os.path.abspath(folder)
        self.folder = Path(os.path.realpath(folder))
        self.follow_links = follow_links
        self.media_roots = {old: self._media_root(old, new) for old, new in (media_roots or {}).items()}
        self.found: Counter[str] = Counter()
        self._known: dict[tuple[object, ...], Any] = {}
        self._names: FileNames | None = None
        self._scanned: ScannedFiles | None = None
        self._inputs: set[str] = set()  # opened as the files of a source, to be compared after it was read
        self._folders: dict[str, bool] = {}
        self._exclude = frozenset(path.resolve() for path in exclude)
        self._allowed = tuple(Path(os.path.realpath(path)) for path in allow)
        for place, given in zip((self.folder, *self._allowed), (folder, *allow), strict=True):
            if not os.path.isdir(place):  # also for names that no file can have, where Path.is_dir raises
                option = "--src the folder that holds the raw data" if place == self.folder else "--allow-root a folder"
                raise SourceError(f"{given}: no such folder; give {option}")
        blobs = filter(None, map(_hub_blobs, (self.folder, *self._allowed)))
        self._reachable = (self.folder, *self._allowed, *blobs) if follow_links else (self.folder,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.folder, self._exclude))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": None, "_folders": {}, "found": Counter(), "_known": {}}

    def _key(self) -> tuple[object, ...]:
        return self.folder, self._exclude, self.follow_links, self._allowed, self.media_roots, self._scanned

    def compared(self, scanned: ScannedFiles) -> Root:
        """The same root, but only with the files that a scan has found, each compared with the scan when it is opened.

        A file that has changed since the scan is a `BuildError` that names it.
        """
        root = copy.copy(self)
        root._scanned, root._inputs, root._known = scanned, set(), {}
        return root

    def with_media_roots(self, roots: Mapping[str, str]) -> Root:
        """The same root with these ``media_roots`` too, which win; `UsageError` as the constructor."""
        if not roots:
            return self
        root = copy.copy(self)
        root.media_roots = {**self.media_roots, **{old: self._media_root(old, new) for old, new in roots.items()}}
        root.found, root._inputs, root._known = Counter(), set(), {}
        return root

    @property
    def is_scanned(self) -> bool:
        """Whether its files are those of a scan (see `compared`), so that what was found once stays found."""
        return self._scanned is not None

    def kept(self, key: tuple[object, ...], make: Callable[[], _T]) -> _T:
        """``make()``, which depends on ``key`` and the files alone; cached in this process if they are those of a scan.

        The cache is emptied when it holds `_MOST_KNOWN` values.
        """
        if not self.is_scanned:
            return make()
        value: _T | None = self._known.get(key)
        if value is None:
            value = make()
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = value
        return value

    @property
    def allowed(self) -> tuple[Path, ...]:
        """The folders outside that links may lead to, with their own links resolved."""
        return self._allowed

    @property
    def names(self) -> FileNames:
        """The names of all files that `walk` lists, for searches; made on first use."""
        if self._names is None:
            self._names = FileNames(path for path, _ in self.walk())
        return self._names

    def walk(self, on_skip: OnSkip | None = None) -> Iterator[tuple[str, int]]:
        """All regular files as (relative POSIX path, bytes), in an order that depends on the names alone.

        ``on_skip(path, why)`` is called for links, special files, hidden files and folders, and names that are not
        UTF-8 (which no JSON file can write; their odd bytes are escaped). Excluded folders are skipped silently.

        Links come last. Pictures, clips and captions are listed under all their names, any other file under one, so
        that its records do not count twice: the name that needs no link, else the first name.
        """
        links: list[str] = []
        skip = on_skip or (lambda path, why: None)
        yield from self._walk("", skip, links)
        if self.follow_links:
            yield from self._walk_links(links, skip)

    def resolve(self, path: str, *, beside: Sequence[str] = ("",)) -> str:
        """``path``, as written in an input file, as a relative POSIX path of a regular file under the root.

        It is taken relative to each folder of ``beside`` in turn (folders under the root; ``""`` is the root); the
        first folder that holds such a file wins, and if none does, the fault in the first folder is raised. If no
        file has the name as written, a name with its accents in the other form of Unicode is accepted (macOS and its
        archives decompose letters, what people type does not).

        `RejectedError` with reason ``outside_root`` (absolute, ``..`` past the root, a symbolic link that is not
        followed), ``missing_file`` (absent, a folder, a device, a URL) or ``malformed`` (a name no file can have).
        """
        check_relative(path)
        faults: list[RejectedError] = []
        for spelling in spellings(path):
            for folder in dict.fromkeys(beside):
                try:
                    clean = joined(folder, spelling)
                    self.open(clean).close()
                except RejectedError as fault:
                    faults.append(fault)
                else:
                    return clean
        raise faults[0]

    def open(self, path: str) -> BinaryIO:
        """The file at the relative POSIX ``path`` for reading bytes; errors as in `resolve`."""
        try:
            descriptor = self._opened(path)
        except (OSError, ValueError) as error:
            if self._scanned is not None and self._scanned.has(path):
                raise self._scanned.missing(path) from None
            raise self._rejection(path, error) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise RejectedError("missing_file", f"{path!r} is not a regular file")
        if self._scanned is None:
            return os.fdopen(descriptor, "rb")
        file = self._scanned.opened(path, descriptor)
        if file is None:
            os.close(descriptor)
            raise RejectedError("missing_file", f"{path!r} is not among the files that were found{_hidden(path)}")
        return file

    def check_there(self, path: str) -> None:
        """Raise what `open` would; a file that the scan has found counts as there, and is not opened."""
        if not self.has_scanned(path):
            self.open(path).close()

    def has_scanned(self, path: str) -> bool:
        """Whether the scan, if there was one, has found a file at ``path``."""
        return self._scanned is not None and self._scanned.has(path)

    def open_input(self, path: str) -> BinaryIO:
        """The file at ``path`` that a source is made of: like `open`, but its absence is a `SourceError`."""
        try:
            file = self.open(path)
        except RejectedError as error:
            raise SourceError(f"{path}: cannot be opened: {error.detail}") from None
        if self._scanned is not None:
            self._inputs.add(path)
        return file

    def check(self, paths: Iterable[str]) -> None:
        """Raise `BuildError` if one of the files at ``paths`` is not as it was scanned."""
        for path in paths if self._scanned is not None else ():
            self.open(path).close()

    def check_inputs(self) -> None:
        """As `check`, for all files that `open_input` has opened since the last call."""
        paths, self._inputs = self._inputs, set()
        self.check(sorted(paths))

    def check_content(self, path: str, content: bytes | BinaryIO) -> None:
        """Raise `BuildError` if ``content``, read or still open, is not what was hashed when the file was scanned."""
        if self._scanned is None:
            return
        if isinstance(content, bytes):
            self._scanned.check_content(path, content)
        else:
            self._scanned.check_file(path, content)

    def size(self, path: str) -> int:
        """Bytes of the file at ``path``; errors as in `resolve`."""
        with self.open(path) as file:
            return os.fstat(file.fileno()).st_size

    def names_in(self, folder: str) -> list[str]:
        """The names of the regular files right in ``folder`` (relative POSIX path); empty if it is no folder."""
        try:
            entries = self._listed(f"{folder}/" if folder else "")
        except (SourceError, ValueError):
            return []
        return [entry.name for entry in entries if entry.size is not None and not entry.why]

    def is_same_file(self, path: str, other: str) -> bool:
        """Whether two paths lead to one file, through links or hard links."""
        with self.open(path) as one, self.open(other) as two:
            return os.path.samestat(os.fstat(one.fileno()), os.fstat(two.fileno()))

    def has_folder(self, path: str) -> bool:
        """Whether a folder lies at the relative POSIX ``path``; the answer is cached."""
        if path not in self._folders:
            try:
                os.close(self._opened(path, os.O_DIRECTORY))
            except (OSError, ValueError):
                self._folders[path] = False
            else:
                self._folders[path] = True
        return self._folders[path]

    def relative(self, path: str) -> str | None:
        """The absolute ``path`` relative to the root, if it begins with its folder, as given or without links."""
        for folder in map(text_of_path, (str(self.folder), self.given)):
            if path.startswith(f"{folder}/"):
                return path[len(folder) + 1 :]
        return None

    def links_advice(self, skipped: Iterable[tuple[str, str]]) -> str:
        """One line about the links among what `walk` has ``skipped``: their number, and the options to read them.

        Empty if there are none.
        """
        links = [path for path, why in skipped if why == LINK_NOT_FOLLOWED or why.startswith(_LINK_OUTSIDE)]
        if not links:
            return ""
        what = "1 symbolic link was" if len(links) == 1 else f"{len(links):,} symbolic links were"
        options = self._options_for(links)
        return f"{what} passed over, such as {links[0]}; to read what they lead to, add {options}"

    def _options_for(self, links: Iterable[str]) -> str:
        folders: dict[str, None] = {}
        for link in links:
            real = os.path.realpath(self.folder / native_path(link))
            inside = (self.folder, *self._allowed, _hub_blobs(self.folder))
            if any(base is not None and beneath(base, real) is not None for base in inside):
                continue
            if os.path.exists(real):
                folders[real if os.path.isdir(real) else os.path.dirname(real)] = None
        named = [_text(folder) for folder in folders if os.path.dirname(folder) not in folders]
        more = " ..." if len(named) > _FOLDERS_NAMED else ""
        options = [] if self.follow_links else ["--follow-links"]
        return " ".join([*options, *(f"--allow-root {folder}" for folder in named[:_FOLDERS_NAMED])]) + more

    def _media_root(self, old: str, new: str) -> str:
        """The folder ``new`` relative to the root."""
        inside = (self.relative(f"{new}/") if is_absolute(new) else new) if new else ""
        if inside is None or ".." in inside.split("/"):
            raise UsageError(f"--media-root {old}={new}: {new} must be a folder in --src")
        return posixpath.normpath(inside).strip("/") if inside else ""

    def _opened(self, path: str, flags: int = 0) -> int:
        """The descriptor of what lies at ``path``; OSError or ValueError if it cannot be opened."""
        try:
            return open_beneath(self.folder, path, flags)
        except OSError:
            place = self._link_target(path)
            if place is None:
                raise
            return open_beneath(*place, flags)

    def _link_target(self, path: str) -> tuple[Path, str] | None:
        """Where the links on ``path`` lead: a folder that may be read, and a path in it; None for any other place."""
        if not (self.follow_links and self._meets_link(path)):
            return None
        return self._reached(os.path.realpath(self.folder / native_path(path)))

    def _reached(self, real: str) -> tuple[Path, str] | None:
        inside = ((base, beneath(base, real)) for base in self._reachable)
        return next(((base, path) for base, path in inside if path is not None), None)

    def _rejection(self, path: str, error: Exception) -> RejectedError:
        if self._meets_link(path):
            if not self.follow_links:
                advice = self._options_for([path])
                return RejectedError("outside_root", f"{path!r} passes a symbolic link; to follow it, add {advice}")
            real = os.path.realpath(self.folder / native_path(path))
            if self._reached(real) is None:
                return RejectedError("outside_root", f"{path!r} {_LINK_OUTSIDE}{real!r}")
        if isinstance(error, PermissionError):
            return RejectedError("missing_file", f"{path!r} {UNREADABLE}")
        return RejectedError("missing_file", f"{path!r} is not in the source folder")

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

    def _walk(self, start: str, skip: OnSkip, links: list[str]) -> Iterator[tuple[str, int]]:
        """The files beneath the folder at ``start`` (empty, or with a slash at its end), and the ``links`` there."""
        folders = [start]
        inside = (beneath(self.folder, str(place)) for place in self._exclude)
        excluded = {text_of_path(path) for path in inside if path is not None}
        while folders:
            prefix = folders.pop()
            inner: list[str] = []
            listed = self._listed(prefix)
            names = {entry.name for entry in listed}
            for entry in listed:
                path = prefix + entry.name
                if path in excluded:
                    continue
                if self.follow_links and entry.why == LINK_NOT_FOLLOWED:
                    links.append(path)
                elif entry.why:
                    skip(_text(path), entry.why)
                elif entry.size is not None:
                    yield path, entry.size
                elif prefix.count("/") >= _MOST_FOLDERS:
                    skip(_text(path)[:1024], f"lies more than {_MOST_FOLDERS} folders deep")
                elif not (self.follow_links and entry.name == _BLOBS and _SNAPSHOTS in names):
                    inner.append(f"{path}/")  # blobs are read under the names that the snapshots give them
            folders.extend(reversed(inner))

    def _walk_links(self, links: list[str], skip: OnSkip) -> Iterator[tuple[str, int]]:
        """The files that ``links`` lead to, and the links in the folders that they lead to, and so on."""
        known: set[tuple[int, int]] = set()
        todo: deque[tuple[str, tuple[str, ...]]] = deque((link, (str(self.folder),)) for link in sorted(links))
        followed = 0
        while todo:
            link, chain = todo.popleft()
            real = os.path.realpath(self.folder / native_path(link))
            if any(beneath(path, real) is not None for path in self._exclude):
                continue
            if self._reached(real) is None:
                skip(link, _LINK_OUTSIDE + _text(real))
                continue
            try:
                found = os.stat(real, follow_symlinks=False)
            except OSError as error:
                skip(link, f"the link leads to nothing ({error.strerror})")
                continue
            if stat.S_ISREG(found.st_mode):
                if self._is_first_name(link, real, found, known):
                    yield link, found.st_size
            elif not stat.S_ISDIR(found.st_mode):
                skip(link, "the link leads to no regular file")
            elif _leads_back(real, (os.path.realpath(os.path.dirname(self.folder / native_path(link))), *chain)):
                skip(link, "the link leads back to a folder that it lies in")
            else:
                followed += 1
                if followed > _MOST_FOLDER_LINKS:
                    raise SourceError(f"{self.folder}: more than {_MOST_FOLDER_LINKS:,} links to folders, up to {link}")
                inner: list[str] = []
                for path, size in self._walk(f"{link}/", skip, inner):
                    place = os.path.join(real, path[len(link) + 1 :])
                    if self._is_first_name(path, place, None, known):
                        yield path, size
                todo.extend((path, (*chain, real)) for path in sorted(inner))

    def _is_first_name(self, path: str, real: str, found: os.stat_result | None, known: set[tuple[int, int]]) -> bool:
        """Whether to list the file at ``real`` as ``path``, which leads there through a link; adds it to ``known``."""
        if named_kind(path) or path.lower().endswith(".txt"):
            return True
        own = beneath(self.folder, real)
        if own is not None and not any(step.startswith(".") for step in own.split("/")) and not self._in_blobs(own):
            return False  # it is listed under its own name
        try:
            found = found or os.stat(real, follow_symlinks=False)
        except OSError:
            return True  # reading it will say what is wrong
        is_first = (found.st_dev, found.st_ino) not in known
        known.add((found.st_dev, found.st_ino))
        return is_first

    def _in_blobs(self, path: str) -> bool:
        steps = path.split("/")
        blobs = [number for number, step in enumerate(steps[:-1]) if step == _BLOBS]
        return any(self.has_folder("/".join((*steps[:number], _SNAPSHOTS))) for number in blobs)

    def _listed(self, prefix: str) -> list[Entry]:
        # Opened like a file, so that a folder swapped for a link between listing and descending is not followed.
        try:
            return list_folder(self._opened(prefix.rstrip("/"), os.O_DIRECTORY))
        except OSError as error:
            raise SourceError(f"{self.folder / native_path(prefix)}: cannot be listed ({error.strerror})") from None


def _hidden(path: str) -> str:
    is_hidden = any(step.startswith(".") for step in path.split("/"))
    return "; hidden files and folders are not looked into" if is_hidden else ""


def _text(path: str) -> str:
    """``path`` for messages, with bytes that are not UTF-8 escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _leads_back(real: str, chain: Iterable[str]) -> bool:
    """Whether the folder ``real`` is one of ``chain``, or holds one of them."""
    return any(beneath(Path(real), folder) is not None for folder in chain)


def _hub_blobs(folder: Path) -> Path | None:
    """The blobs that the links in ``folder`` lead to, if it is a snapshot in a cache of the Hub, or lies in one."""
    for place in (folder, *folder.parents):
        if place.name == _SNAPSHOTS:
            blobs = place.parent / _BLOBS
            return blobs if blobs.is_dir() and not blobs.is_symlink() else None
    return None
