"""Absent or complete: how files reach their final names, and where the files of a shard folder are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["publish", "sha256_of", "sync_folder", "write_atomically"]


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def publish(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """A file to write that appears as ``path``, whole and synced, when the block ends without an error.

    It is written as ``temporary`` (same file system), which is removed when the block fails.
    """
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, chunks: Iterable[bytes]) -> None:
    """Write ``chunks`` as the file ``path``: absent or complete, never in between."""
    with publish(path, path.with_name(f".{path.name}.tmp")) as file:
        file.writelines(chunks)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
