"""The files of ``--src`` as records name them and as sources read them: resolved, opened, compared with the scan."""

from __future__ import annotations

import copy
import os
import posixpath
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from mimicit.errors import RejectedError, SourceError, UsageError
from mimicit.sources.files.paths import ReadableFolders, check_relative, is_absolute, joined, spellings, text_of_path
from mimicit.sources.files.scanned import APPEARED, FileState, ScannedFiles, changed
from mimicit.sources.files.walking import FileNames, OnSkip, walk

_T = TypeVar("_T")
_MOST_KNOWN: Final = 1 << 16


class Root:
    """The regular files beneath ``folder``; hidden files, special files and symbolic links are not among them.

    With ``follow_links``, links are followed to what lies beneath ``folder`` or the folders ``allow`` (see
    `ReadableFolders`). ``media_roots`` maps the beginnings of paths in records to paths relative to ``folder``.
    ``found`` counts the ways in which the files of records were found (see `mimicit.sources.files.finding`).
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
        self._readable = ReadableFolders(folder, follow_links=follow_links, allow=allow)
        self.folder = self._readable.folder
        self.media_roots = {old: self._media_root(old, new) for old, new in (media_roots or {}).items()}
        self.found: Counter[str] = Counter()
        self._known: dict[tuple[object, ...], Any] = {}
        self._names: FileNames | None = None
        self._scanned: ScannedFiles | None = None
        self._noted: dict[str, FileState | None] | None = None
        self._inputs: set[str] = set()  # opened as the files of a source, to be compared after it was read
        self._folders: dict[str, bool] = {}
        self._exclude = frozenset(path.resolve() for path in exclude)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Root) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.folder, self._exclude))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": None, "_noted": None, "_folders": {}, "found": Counter(), "_known": {}}

    def _key(self) -> tuple[object, ...]:
        return self.folder, self._exclude, self.follow_links, self.allowed, self.media_roots, self._scanned

    def noting(self) -> tuple[Root, dict[str, FileState | None]]:
        """The same root, and what it lists and opens from now on, before there is a scan to compare it with.

        That is the state of each file when it was first opened, and None for each that was only listed. A file that
        appears between two listings is a `BuildError` that names it.
        """
        root = copy.copy(self)
        noted: dict[str, FileState | None] = {}
        root._noted = noted
        return root, noted

    def compared(self, scanned: ScannedFiles) -> Root:
        """The same root, but only with the files that a scan has found, each compared with the scan when it is opened.

        Names are looked up in the scan, too: what has appeared or gone since then changes no answer. A file that has
        changed since the scan is a `BuildError` that names it.
        """
        root = copy.copy(self)
        root._scanned, root._noted, root._names = scanned, None, None
        root._inputs, root._known, root._folders = set(), {}, {}
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
        return self._readable.allowed

    @property
    def follow_links(self) -> bool:
        """Whether links are followed."""
        return self._readable.follow_links

    @property
    def names(self) -> FileNames:
        """The names of all files that `walk` lists, for searches; made on first use."""
        if self._names is None:
            listed = (path for path, _ in self.walk())
            self._names = FileNames(listed if self._scanned is None else self._scanned.paths())
        return self._names

    def walk(self, on_skip: OnSkip | None = None) -> Iterator[tuple[str, int]]:
        """All regular files as (relative POSIX path, bytes), in an order that depends on the names alone.

        ``on_skip(path, why)`` is called for links, special files, hidden files and folders, and names that are not
        UTF-8 (which no JSON file can write; their odd bytes are escaped). Excluded folders are skipped silently.

        Links come last. Pictures, clips and captions are listed under all their names, any other file under one, so
        that its records do not count twice: the name that needs no link, else the first name.
        """
        found = walk(self._readable, self._exclude, on_skip or (lambda path, why: None))
        return found if self._noted is None else _noting(self._noted, found)

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
        descriptor = self._opened(path)
        return os.fdopen(descriptor, "rb") if self._scanned is None else self._scanned.file(path, descriptor)

    def read(self, path: str, check_size: Callable[[int], None]) -> bytes:
        """The bytes of the file at ``path``, as they were hashed if it was scanned; errors as in `open`.

        ``check_size`` is given the number of bytes before any is read, and may raise.
        """
        descriptor = self._opened(path)
        try:
            # Read only what was checked, even if the file grows meanwhile.
            size = os.fstat(descriptor).st_size
            check_size(size)
            data = _read(descriptor, size)
            if self._scanned is not None:
                self._scanned.check(path, descriptor)
        finally:
            os.close(descriptor)
        self.check_content(path, data)
        return data

    def _opened(self, path: str) -> int:
        """The descriptor of the file at ``path``, compared with the scan if there was one."""
        try:
            descriptor = self._readable.open(path)
        except (OSError, ValueError) as error:
            if self._scanned is not None and self._scanned.has(path):
                raise self._scanned.missing(path) from None
            raise self._readable.fault(path, error) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RejectedError("missing_file", f"{path!r} is not a regular file")
            if self._scanned is not None:
                if not self._scanned.has(path):
                    detail = f"{path!r} is not among the files that were found{_hidden(path)}"
                    raise RejectedError("missing_file", detail)
                self._scanned.check(path, descriptor)
            elif self._noted is not None and self._noted.get(path) is None:
                self._noted[path] = FileState.of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

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
        if self._scanned is not None:
            return self._scanned.names_in(folder)
        try:
            entries = self._readable.listed(f"{folder}/" if folder else "")
        except (SourceError, ValueError):
            return []
        return [entry.name for entry in entries if entry.size is not None and not entry.why]

    def is_same_file(self, path: str, other: str) -> bool:
        """Whether two paths lead to one file, through links or hard links."""
        with self.open(path) as one, self.open(other) as two:
            return os.path.samestat(os.fstat(one.fileno()), os.fstat(two.fileno()))

    def has_folder(self, path: str) -> bool:
        """Whether a folder (of a scan: one with files) lies at the relative POSIX ``path``; the answer is cached."""
        if path not in self._folders:
            there = self._readable if self._scanned is None else self._scanned
            self._folders[path] = there.has_folder(path)
        return self._folders[path]

    def relative(self, path: str) -> str | None:
        """The absolute ``path`` relative to the root, if it begins with its folder, as given or without links."""
        for folder in map(text_of_path, (str(self.folder), self.given)):
            if path.startswith(f"{folder}/"):
                return path[len(folder) + 1 :]
        return None

    def links_advice(self, skipped: Iterable[tuple[str, str]]) -> str:
        """See `ReadableFolders.links_advice`."""
        return self._readable.links_advice(skipped)

    def _media_root(self, old: str, new: str) -> str:
        """The folder ``new`` relative to the root."""
        inside = (self.relative(f"{new}/") if is_absolute(new) else new) if new else ""
        if inside is None or ".." in inside.split("/"):
            raise UsageError(f"--media-root {old}={new}: {new} must be a folder in --src")
        return posixpath.normpath(inside).strip("/") if inside else ""


def _noting(noted: dict[str, FileState | None], found: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The files ``found`` by a walk, which only the first walk may add to ``noted``."""
    is_first = not noted
    for path, size in found:
        if path not in noted:
            if not is_first:
                raise changed(path, APPEARED)
            noted[path] = None
        yield path, size


def _read(descriptor: int, size: int) -> bytes:
    """Up to ``size`` bytes; one call of the system reads 2 GiB at most, and may be interrupted."""
    data = os.read(descriptor, size)
    if len(data) == size:
        return data
    parts = [data]
    while parts[-1] and (size := size - len(parts[-1])):
        parts.append(os.read(descriptor, size))
    return b"".join(parts)


def _hidden(path: str) -> str:
    is_hidden = any(step.startswith(".") for step in path.split("/"))
    return "; hidden files and folders are not looked into" if is_hidden else ""
