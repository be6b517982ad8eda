"""Files that are read through a copy: compressed as a whole (``.tar.gz``, ``.jsonl.zst``, ...), or text in UTF-16.

Such a file allows no random access, so a copy of what it unpacks to, or of its text in UTF-8, is made once, in
the scratch folder of the root, where all processes of a build find it; a build that was killed finds it again. Files
are recognised by their first bytes and not by their names. A file is refused if it unpacks to more than `MAX_BYTES`, or
to more than `MAX_RATIO` times its size. A ``.zip`` of one text file is unpacked while it is read, within the same
limits; it is copied only if it is read by ranges.
"""

from __future__ import annotations

import atexit
import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from mimicit.errors import SourceError
from mimicit.sources.files.root import Root

_MARKS: Final = {b"\x1f\x8b\x08": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK_BYTES: Final = 1 << 20
_MAX_XZ_MEMORY: Final = 256 << 20
_START_BYTES: Final = 8 << 20
MARK_BYTES: Final = 4
"""The bytes at the beginning of a text that tell its encoding."""
_MAX_MARK: Final = max(MARK_BYTES, *map(len, _MARKS))

# UTF-32 first: its mark begins with that of UTF-16.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MAX_BYTES: Final = 64 << 30
MAX_RATIO: Final = 200  # JSON of web pages shrinks to a third or a tenth
ALWAYS_FINE_BYTES: Final = 16 << 20  # however well it is packed
_MAX_READ_BYTES: Final = 1 << 20
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED: Final = 1
_ZIP_MARK: Final = b"PK\x03\x04"


def is_packed(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is compressed as a whole, or text in UTF-16 or UTF-32."""
    return _packing(head) is not None


def open_start(root: Root, path: str) -> BinaryIO:
    """The file at ``path``, or the first 8 MiB of what it unpacks to, for a first look; fewer if it is damaged.

    Errors as `Root.open`.
    """
    file = root.open(path)
    if not is_packed(os.pread(file.fileno(), _MAX_MARK, 0)):
        return file
    found = bytearray()
    with file, suppress(SourceError):
        for block in _blocks(file, path):
            found += block
            if len(found) >= _START_BYTES:
                break
    return io.BytesIO(found)


def open_text(root: Root, path: str) -> BinaryIO:
    """The text at ``path``, which a source is made of, in UTF-8: as `Root.open_input`, through a copy if needed."""
    file = root.open_input(path)
    if not is_packed(os.pread(file.fileno(), _MAX_MARK, 0)):
        return file
    file.close()
    return open_unpacked(root, path)


def open_unpacked(root: Root, path: str) -> BinaryIO:
    """The file at ``path``, or what it unpacks to, for random access.

    `RejectedError` as `Root.open`, `SourceError` if it is damaged, or unpacks to too much.
    """
    file = root.open(path)
    if not is_packed(os.pread(file.fileno(), _MAX_MARK, 0)):
        return file
    with file:
        file.seek(0)
        copy = _scratch(root) / _name(file, path)
        if not copy.exists():
            _write(copy, _bounded(_blocks(file, path), os.fstat(file.fileno()).st_size, path))
    return copy.open("rb")


def open_unzipped(root: Root, path: str) -> BinaryIO:
    """As `open_zipped`, through a copy, for random access."""
    with root.open_input(path) as file:
        copy = _scratch(root) / _name(file, path)
    if not copy.exists():
        with open_zipped(root, path) as member:
            _write(copy, iter(partial(member.read, _BLOCK_BYTES), b""))
    return copy.open("rb")


def _packing(head: bytes) -> str | None:
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None) or encoding_of(head)


def _name(file: BinaryIO, path: str) -> str:
    """The name of the copy, which no other file and no other state of this file has."""
    state = os.fstat(file.fileno())
    facts = (path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    return f"unpacked-{hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()}"


def _scratch(root: Root) -> Path:
    if root.scratch is None:
        return _own_scratch()
    root.scratch.mkdir(parents=True, exist_ok=True)
    return root.scratch


@cache
def _own_scratch() -> Path:
    """A folder of this process, for reading without a build."""
    folder = Path(tempfile.mkdtemp(prefix="mimicit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _bounded(blocks: Iterable[bytes], size: int, path: str) -> Iterator[bytes]:
    """The ``blocks`` to which the file of ``size`` bytes unpacks; `SourceError` if these have too many bytes."""
    most = min(max(ALWAYS_FINE_BYTES, MAX_RATIO * size), MAX_BYTES)
    unpacked = 0
    for block in blocks:
        unpacked += len(block)
        if unpacked > most:
            raise SourceError(f"{path}: {size} bytes that unpack to more than {most} are refused")
        yield block


def _write(copy: Path, blocks: Iterable[bytes]) -> None:
    descriptor, name = tempfile.mkstemp(prefix="unpacking-", dir=copy.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            for block in blocks:
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, copy)  # of two processes that unpack at the same time, either may win
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _blocks(file: BinaryIO, path: str) -> Iterator[bytes]:
    """What ``file`` unpacks to, piece by piece."""
    packing = _packing(os.pread(file.fileno(), _MAX_MARK, 0))
    with _damage(path):
        match packing:
            case "xz":
                yield from _xz_blocks(file)
            case "zstd":
                import pyarrow as pa

                with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as stream:
                    while block := stream.read(_BLOCK_BYTES):
                        yield block
            case "gzip" | "bz2":
                with gzip.GzipFile(fileobj=file) if packing == "gzip" else bz2.BZ2File(file) as unpacking:
                    while block := unpacking.read(_BLOCK_BYTES):
                        yield block
            case encoding:
                yield from _utf8_blocks(file, path, str(encoding))


def _utf8_blocks(file: BinaryIO, path: str, encoding: str) -> Iterator[bytes]:
    try:
        yield from utf8_blocks(file, encoding)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not {encoding} ({error.reason}); save it as UTF-8") from None


def _xz_blocks(file: BinaryIO) -> Iterator[bytes]:
    """As `lzma.LZMAFile` reads them, but in bounded memory: a header may ask for 4 GiB."""
    decoder = lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)
    data = file.read(_BLOCK_BYTES)
    while data or not decoder.eof:
        yield decoder.decompress(data, max_length=_BLOCK_BYTES)
        if decoder.eof:
            data = (decoder.unused_data or file.read(_BLOCK_BYTES)).lstrip(b"\0")
            if data:
                decoder = lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)
        else:
            data = file.read(_BLOCK_BYTES) if decoder.needs_input else b""
            if decoder.needs_input and not data:
                raise EOFError("the file is cut")


@contextmanager
def _damage(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise SourceError(f"{path}: damaged compressed file: {error}; fetch it again or unpack it") from None


def encoding_of(head: bytes) -> str | None:
    """The encoding of a text that begins with ``head``, if it is not a superset of ASCII; None for any other file.

    Without a byte order mark, two characters of ASCII with their zero bytes mean UTF-16.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    for order, encoding in ((0, "utf-16-le"), (1, "utf-16-be")):
        characters, zeros = head[order:MARK_BYTES:2], head[1 - order : MARK_BYTES : 2]
        if zeros == b"\0\0" and all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in characters):
            return encoding
    return None


def as_utf8(data: bytes) -> bytes:
    """The text ``data`` (UTF-8, 16 or 32) as UTF-8 without a byte order mark. UnicodeDecodeError if it is cut."""
    encoding = encoding_of(data)
    if encoding is None:
        return data.removeprefix(codecs.BOM_UTF8)
    return data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")


def utf8_blocks(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """The rest of ``file`` in UTF-8; lone surrogates are kept. UnicodeDecodeError if it is cut."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    while block := file.read(_BLOCK_BYTES):
        yield decoder.decode(block).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


class _TooMuchError(Exception):
    """More is asked of the archive in one go than its contents ever need."""


# What zipfile and zlib raise on damaged bytes.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError),
    _TooMuchError,
)


def zipped_size(root: Root, path: str) -> int | None:
    """The bytes that the one member of the archive at ``path`` claims to have; None if that is no archive.

    Errors as `open_zipped`.
    """
    with root.open_input(path) as file:
        if os.pread(file.fileno(), len(_ZIP_MARK), 0) != _ZIP_MARK:
            return None
        with _damage_in_zip(path), zipfile.ZipFile(_SmallReads(file)) as archive:
            return _only_member(archive, path).file_size


@contextmanager
def open_zipped(root: Root, path: str) -> Iterator[BinaryIO]:
    """The one member of the archive at ``path``, for reading forwards.

    `SourceError` if the archive is damaged, encrypted, packed in an unusual way, holds several members, or is a bomb;
    also while it is read.
    """
    with (
        _damage_in_zip(path),
        root.open_input(path) as file,
        zipfile.ZipFile(_SmallReads(file)) as archive,
        archive.open(_only_member(archive, path)) as member,
    ):
        yield cast(BinaryIO, member)


@contextmanager
def _damage_in_zip(path: str) -> Iterator[None]:
    try:
        yield
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
