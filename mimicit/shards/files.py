"""Publish files under their final names, absent or complete, and open files only if they are regular.

A folder that others made may hold a FIFO, a socket or a device under any name. Opening a FIFO waits for a writer that
never comes, and reading a device may never end, so everything that reads such a folder opens its files here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from mimicit.errors import BuildError

_WITHOUT_WAITING: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK_BYTES: Final = 1 << 20
_HOLE_BYTES: Final = 1 << 30
_HOLE_RATIO: Final = 100  # no file system compresses a file of ours this far
_KINDS: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def publish(path: Path, temporary: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that appears as ``path``, whole and synced, when the block ends without an error.

    It is written as ``temporary`` (same file system), which is removed if the block fails. Without ``durable`` it is
    not synced, as syncing takes many times as long as writing: a crash of the machine may then cut it short.

    `BuildError` if another process is writing ``temporary``; what a killed one has left is written anew.
    """
    with _created(path, temporary) as file:
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.replace(temporary, path)  # before it is closed, which ends the lock
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if durable:
        sync_folder(path.parent)


def _created(path: Path, temporary: Path) -> BinaryIO:
    """The new file ``temporary``, locked; `BuildError` if another process is writing it."""
    _remove_abandoned(path, temporary)
    try:
        file = open(temporary, "xb", buffering=1 << 20)  # noqa: SIM115
    except FileExistsError:
        raise _busy(path) from None
    if not _lock(file.fileno()) or not os.fstat(file.fileno()).st_nlink:  # another took it for abandoned
        file.close()
        raise _busy(path)
    return file


def _busy(path: Path) -> BuildError:
    return BuildError(f"{path}: another process is writing it; wait for it to end")


def _remove_abandoned(path: Path, temporary: Path) -> None:
    try:
        descriptor = os.open(temporary, _WITHOUT_WAITING | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:  # a link, or a file that may not be read
        temporary.unlink(missing_ok=True)
        return
    try:
        if not _lock(descriptor):
            raise _busy(path)
        temporary.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether the open file was not locked by another process; it is locked from now on until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write ``chunks`` as the file ``path``: absent or complete, never in between."""
    with publish(path, path.with_name(f".{path.name}.tmp")) as file:
        file.writelines(chunks)


def open_descriptor(path: str | Path) -> int:
    """A descriptor to read the regular file ``path``, or the file that it links to.

    `OSError` if it does not exist or is something else: a folder, FIFO, socket or device.
    """
    _check_regular(os.stat(path).st_mode, path)  # before it is opened: opening alone has effects on some devices
    descriptor = os.open(path, _WITHOUT_WAITING)
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)  # it may have been replaced in between
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: str | Path) -> BinaryIO:
    """The regular file ``path`` to read; errors as `open_descriptor`."""
    return os.fdopen(open_descriptor(path), "rb")


def read_regular(path: str | Path, *, most: int = 1 << 30) -> bytes:
    """The content of the regular file ``path``; errors as `open_descriptor`, and if it has above ``most`` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"has {size:,} bytes, more than {most:,}", str(path))
        return file.read(size)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal; errors as `open_descriptor`.

    `OSError` also if it is little but a hole: a hole of terabytes takes no space, and hours to read.
    """
    found = hashlib.sha256()
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > _HOLE_BYTES and status.st_blocks * 512 < status.st_size // _HOLE_RATIO:
            raise OSError(errno.EFBIG, f"is a hole of {status.st_size:,} bytes", str(path))
        # No further than its size: some files of /proc are regular, of size 0, and give bytes without end.
        left = status.st_size
        while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest()


def _check_regular(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a regular file", str(path))
