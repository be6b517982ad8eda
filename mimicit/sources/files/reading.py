"""Read the bytes that a `Locator` stands for. Sizes are checked before memory is allocated; no picture is decoded."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tarfile import BLOCKSIZE
from types import TracebackType
from typing import BinaryIO, Final, Self

import orjson

from mimicit.errors import BuildError, RejectedError, SourceError
from mimicit.sources.containers.arrow import ArrowCells
from mimicit.sources.containers.base64_text import decode_base64
from mimicit.sources.containers.parquet import ParquetCells
from mimicit.sources.containers.tar_members import regular_size
from mimicit.sources.containers.unpacked import open_unpacked
from mimicit.sources.files.finding import find_file
from mimicit.sources.files.media_names import folder_of
from mimicit.sources.files.root import Root
from mimicit.sources.items import InArrow, InFile, InJson, InParquet, InTar, InText, Locator

MAX_FILE_BYTES: Final = 1 << 30
MAX_BASE64_BYTES: Final = 256 << 20
_OPEN_FILES: Final = 16
_COPIED_BYTES: Final = 1 << 20  # per read
_OPEN_DESCRIPTORS: Final = Path("/proc/self/fd")  # opening one of these opens the very file, whatever its name is now


class Reader:
    """Reads media beneath ``root``, and keeps a few big files open between reads. One per process; not thread-safe.

    ``max_file_bytes`` limits a medium that is a file of its own or in a tar, ``max_base64_bytes`` the base64 text of a
    medium inside a file. ``scratch`` is the folder for the copies that `as_file` makes, one at a time; None: the
    system's.
    """

    def __init__(
        self,
        root: Root,
        *,
        max_file_bytes: int = MAX_FILE_BYTES,
        max_base64_bytes: int = MAX_BASE64_BYTES,
        scratch: Path | None = None,
    ) -> None:
        self._root = root
        self._scratch = scratch
        self._max_file_bytes = max_file_bytes
        self._max_base64_bytes = max_base64_bytes
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._tables: set[str] = set()  # read from since `wake`
        self._cells = ParquetCells(root)
        self._arrow_cells = ArrowCells(root)

    def serves(self, root: Root, scratch: Path) -> bool:
        """Whether it reads beneath ``root``, and copies into ``scratch``."""
        return (self._root, self._scratch) == (root, scratch)

    def read(self, locator: Locator) -> bytes:
        """The bytes of the medium, never empty.

        `RejectedError` with reason ``missing_file`` or ``outside_root`` (see `Root.resolve`), ``empty_media``,
        ``bad_base64``, or ``bad_media`` (too large, or not what the importer saw). A `Named` locator must have been
        resolved to one of the others before.
        """
        match locator:
            case InFile():
                return self._in_file(locator)
            case InJson():
                return self._in_json(locator)
            case InText():
                return self._in_text(locator)
            case InParquet():
                self._tables.add(locator.path)
                return self._in_table(locator, self._cells.read(locator))
            case InArrow():
                self._tables.add(locator.path)
                return self._in_table(locator, self._arrow_cells.read(locator))
            case InTar():
                return self._in_tar(locator)
            case _:
                raise TypeError(f"{locator!r} names a picture; resolve it to its place first")

    @contextmanager
    def as_file(self, locator: Locator) -> Iterator[Path]:
        """The medium as a file of its own, for decoders that open it themselves; the path is valid within the block.

        A medium that is a file is never opened again by its name, which may lead elsewhere by then: the path is that of
        the open descriptor. A medium inside another file is copied. `RejectedError` as in `read`.
        """
        if isinstance(locator, InFile):
            with self._root.open(locator.path) as file:
                self._check_size(locator.path, os.fstat(file.fileno()).st_size)
                self._root.check_content(locator.path, file)
                if _OPEN_DESCRIPTORS.is_dir():
                    yield _OPEN_DESCRIPTORS / str(file.fileno())
                    return
                with self._scratch_file() as path:
                    with path.open("xb") as copy:
                        shutil.copyfileobj(file, copy)
                    yield path
            return
        with self._scratch_file() as path:
            if isinstance(locator, InTar):
                self._copy_member(locator, path)
            else:
                path.write_bytes(self.read(locator))
            yield path

    @contextmanager
    def _scratch_file(self) -> Iterator[Path]:
        """The path of a file to be written, which is deleted after the block."""
        with tempfile.TemporaryDirectory(prefix="clip-", dir=self._scratch) as folder:
            yield Path(folder) / "clip"

    def rest(self) -> None:
        """Close all files but the columns of tables, which can be read on from where they are.

        `BuildError` if a table has changed since it was scanned.
        """
        while self._files:
            self._files.popitem()[1].close()
        self._arrow_cells.close()
        tables, self._tables = self._tables, set()
        self._root.check(sorted(tables))

    def wake(self) -> None:
        """Close the columns of tables that have changed since `rest`."""
        self._cells.forget_changed()

    def close(self) -> None:
        """Close all files."""
        self.rest()
        self._cells.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_file(self, locator: InFile) -> bytes:
        return self._root.read(locator.path, partial(self._check_size, locator.path))

    def _in_json(self, locator: InJson) -> bytes:
        self._check_base64(locator.path, locator.length)
        file = self._opened(locator.path)
        quoted = os.pread(file.fileno(), locator.length + 2, locator.offset - 1)
        if len(quoted) != locator.length + 2 or quoted[:1] != b'"' or quoted[-1:] != b'"':
            raise RejectedError("bad_media", f"{locator.path}: no text at byte {locator.offset}; the file has changed")
        return decode_base64(_unescaped(quoted))

    def _in_text(self, locator: InText) -> bytes:
        self._check_base64(locator.path, locator.length)
        text = os.pread(self._opened(locator.path).fileno(), locator.length, locator.offset)
        if len(text) != locator.length:
            raise RejectedError("bad_media", f"{locator.path}: no text at byte {locator.offset}; the file has changed")
        return decode_base64(text)

    def _in_tar(self, locator: InTar) -> bytes:
        descriptor = self._checked_member(locator)
        data = os.pread(descriptor, locator.size, locator.offset)
        if len(data) != locator.size:
            raise _changed(locator)
        return data

    def _copy_member(self, locator: InTar, path: Path) -> None:
        descriptor = self._checked_member(locator)
        with path.open("xb") as file:
            while left := locator.size - file.tell():
                block = os.pread(descriptor, min(left, _COPIED_BYTES), locator.offset + file.tell())
                if not block:
                    raise _changed(locator)
                file.write(block)

    def _checked_member(self, locator: InTar) -> int:
        """The descriptor of the archive, once it has been checked that the member is still there."""
        place = f"{locator.path}: the member at byte {locator.offset}"
        if locator.size == 0:
            raise RejectedError("empty_media", f"{place} is empty")
        if locator.size > self._max_file_bytes:
            raise RejectedError("bad_media", f"{place} has {locator.size} bytes, more than {self._max_file_bytes}")
        descriptor = self._opened(locator.path).fileno()
        if locator.offset < BLOCKSIZE:
            raise RejectedError("bad_media", f"{place} has no header")
        if locator.offset + locator.size > os.fstat(descriptor).st_size:
            raise _changed(locator)
        if regular_size(os.pread(descriptor, BLOCKSIZE, locator.offset - BLOCKSIZE)) != locator.size:
            raise _changed(locator)
        return descriptor

    def _in_table(self, locator: InParquet | InArrow, value: object) -> bytes:
        """The picture in a cell: bytes, base64 text, or a picture of `datasets`, whose bytes win over its path."""
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            path = value.get("path")
            value = value.get("bytes")
            if value is None and isinstance(path, str):
                return self._in_file(InFile(find_file(self._root, path, beside=folder_of(locator.path))))
        if isinstance(value, str):
            self._check_base64(locator.path, len(value))
            return decode_base64(value.encode("utf-8", "replace"))
        if not isinstance(value, bytes):
            raise RejectedError("bad_media", f"{locator.path}: column {locator.column!r} holds no bytes and no text")
        if not value:
            raise RejectedError("empty_media", f"{locator.path}: the cell is empty")
        return value

    def _opened(self, path: str) -> BinaryIO:
        try:
            file = self._files.pop(path, None) or open_unpacked(self._root, path)
        except SourceError as error:
            raise RejectedError("bad_media", str(error)) from None
        self._files[path] = file
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file

    def _check_size(self, path: str, size: int) -> None:
        if size == 0:
            raise RejectedError("empty_media", f"{path} is empty")
        if size > self._max_file_bytes:
            raise RejectedError("bad_media", f"{path} has {size} bytes, more than {self._max_file_bytes}")

    def _check_base64(self, path: str, length: int) -> None:
        if length > self._max_base64_bytes:
            raise RejectedError("bad_media", f"{path}: {length} bytes of base64, more than {self._max_base64_bytes}")


_kept: list[Reader] = []  # at most one: that of this process


@contextmanager
def kept_reader(root: Root, scratch: Path) -> Iterator[Reader]:
    """The reader of this process for ``root``, which outlives the block.

    A row group of a table may hold gigabytes, and can only be read forwards. With the kept reader, a worker does not
    start again at its beginning in every task.
    """
    if not (_kept and _kept[0].serves(root, scratch)):
        while _kept:
            with suppress(BuildError):  # what another build read may be gone by now; it has checked that itself
                _kept.pop().close()
        _kept.append(Reader(root, scratch=scratch))
    reader = _kept[0]
    reader.wake()
    try:
        yield reader
    finally:
        reader.rest()


def _changed(locator: InTar) -> RejectedError:
    place = f"{locator.path}: the member at byte {locator.offset}"
    return RejectedError("bad_media", f"{place} is not a file of {locator.size} bytes; the archive has changed")


def _unescaped(quoted: bytes) -> bytes:
    """The text of the JSON string ``quoted``; without escapes, its bytes are not copied twice."""
    if b"\\" not in quoted:
        return quoted[1:-1]
    try:
        text: str = orjson.loads(quoted)
    except orjson.JSONDecodeError as error:
        raise RejectedError("bad_base64", f"not a JSON string: {error}") from None
    return text.encode()
