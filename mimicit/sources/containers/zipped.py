"""A text file inside a ``.zip`` that holds nothing else, unpacked while it is read.

An archive is refused before it is unpacked if it promises more than `MAX_BYTES`, or more than `MAX_RATIO` times its
own size; no more than it promises is ever read from it. Memory is a few megabytes.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, cast

from mimicit.errors import SourceError
from mimicit.sources.files.root import Root

__all__ = ["ALWAYS_FINE_BYTES", "MAX_BYTES", "MAX_RATIO", "open_zipped"]

MAX_BYTES: Final = 64 << 30
MAX_RATIO: Final = 200  # JSON of web pages shrinks to a third or a tenth
ALWAYS_FINE_BYTES: Final = 16 << 20  # however well it is packed
_MAX_READ_BYTES: Final = 1 << 20
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 1


class _TooMuchError(Exception):
    """More is asked of the archive at once than its contents ever need."""


# What zipfile and zlib raise on damaged bytes.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError),
    _TooMuchError,
)


@contextmanager
def open_zipped(root: Root, path: str) -> Iterator[BinaryIO]:
    """The one member of the archive at ``path``, for reading forwards.

    `SourceError` where the archive is damaged, encrypted, packed in an unusual way, holds several members, or is a
    bomb; also while it is read.
    """
    try:
        with (
            root.open_input(path) as file,
            zipfile.ZipFile(_SmallReads(file)) as archive,
            archive.open(_only_member(archive, path)) as member,
        ):
            yield cast(BinaryIO, member)
    except _DAMAGE as error:
        raise SourceError(f"{path}: damaged zip archive: {error or 'it is cut'}; fetch it again or unpack it") from None


class _SmallReads:
    """A file that is only read in small pieces: `zipfile` reads the list of members in one piece of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(min(size, _MAX_READ_BYTES) if size >= 0 else _MAX_READ_BYTES)
        if len(data) == _MAX_READ_BYTES:
            raise _TooMuchError("its list of members is too long")
        return data


def _only_member(archive: zipfile.ZipFile, path: str) -> zipfile.ZipInfo:
    members = archive.infolist()
    if len(members) != 1:
        raise SourceError(f"{path}: holds {len(members)} members, not one file; unpack it")
    (member,) = members
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
        raise SourceError(f"{path}: is encrypted, or packed in another way than deflate; unpack it")
    most = max(ALWAYS_FINE_BYTES, MAX_RATIO * member.compress_size)
    if member.file_size > min(most, MAX_BYTES):
        sizes = f"{member.compress_size} bytes that unpack to {member.file_size}"
        raise SourceError(f"{path}: {sizes}; more than {MAX_RATIO} times, or than {MAX_BYTES} bytes, is refused")
    return member
