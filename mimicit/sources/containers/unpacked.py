"""Files that are read through a copy: compressed as a whole (``.tar.gz``, ``.jsonl.zst``, ...), or text in UTF-16.

Such a file cannot be read by places, so a copy of what it unpacks to, or of its text in UTF-8, is made once, in the
scratch folder of the root, where all processes of a build find it; a build that was killed finds it again. What a file
is, is told by its first bytes and not by its name. A file is refused if it unpacks to more than `MAX_BYTES`, or to more
than `MAX_RATIO` times its size.
"""

from __future__ import annotations

import atexit
import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from mimicit.errors import SourceError
from mimicit.sources.containers.encodings import MARK_BYTES, encoding_of, utf8_blocks
from mimicit.sources.containers.zipped import ALWAYS_FINE_BYTES, MAX_BYTES, MAX_RATIO
from mimicit.sources.files.root import Root

__all__ = ["is_packed", "open_start", "open_text", "open_unpacked"]

_MARKS: Final = {b"\x1f\x8b\x08": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK_BYTES: Final = 1 << 20
_MAX_XZ_MEMORY: Final = 256 << 20
_START_BYTES: Final = 8 << 20
_MAX_MARK: Final = max(MARK_BYTES, *map(len, _MARKS))


def is_packed(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is compressed as a whole, or text in UTF-16 or UTF-32."""
    return _packing(head) is not None


def open_start(root: Root, path: str) -> BinaryIO:
    """The file at ``path``, or the first 8 MiB of what it unpacks to, for a first look; fewer where it is damaged.

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
    """The text in UTF-8 at ``path``, which a source is made of: as `Root.open_input`, through its copy if need be."""
    file = root.open_input(path)
    if not is_packed(os.pread(file.fileno(), _MAX_MARK, 0)):
        return file
    file.close()
    return open_unpacked(root, path)


def open_unpacked(root: Root, path: str) -> BinaryIO:
    """The file at ``path``, or what it unpacks to, for reading anywhere.

    `RejectedError` as `Root.open`, `SourceError` where it is damaged, or unpacks to too much.
    """
    file = root.open(path)
    if not is_packed(os.pread(file.fileno(), _MAX_MARK, 0)):
        return file
    with file:
        file.seek(0)
        copy = _scratch(root) / _name(file, path)
        if not copy.exists():
            _unpack(file, path, copy)
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
    """A folder of this process, for whoever reads without a build."""
    folder = Path(tempfile.mkdtemp(prefix="mimicit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _unpack(file: BinaryIO, path: str, copy: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    most = min(max(ALWAYS_FINE_BYTES, MAX_RATIO * size), MAX_BYTES)
    descriptor, name = tempfile.mkstemp(prefix="unpacking-", dir=copy.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            for block in _blocks(file, path):
                if out.tell() + len(block) > most:
                    raise SourceError(f"{path}: {size} bytes that unpack to more than {most} are refused")
                out.write(block)
            out.flush()
            os.fsync(out.fileno())
        os.replace(name, copy)  # of two processes that unpack at once, either may win
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
