"""Blobs: files of the work folder that hold encoded media until these are packed; each ends with its own SHA-256.

A build that was killed resumes with the blobs that it finds, perhaps days later or after the machine went down. So
they are checked then, and the media of a blob that was cut, removed or damaged are encoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from mimicit.pipeline.disk import naming, scratch
from mimicit.pipeline.engines.local import Engine
from mimicit.progress import Progress
from mimicit.shards.files import publish

_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 1 << 20


class BlobWriter:
    """Writes the files of media one after the other; ``size`` is the offset of the next."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0  # bytes so far

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> None:
        """Write the checksum; nothing may follow it."""
        self._file.write(self._digest.digest())


@contextmanager
def writing_blob(path: Path) -> Iterator[BlobWriter]:
    """A new blob that appears as ``path``, whole and synced, when the block ends without an error."""
    with naming(path), publish(path, scratch(path)) as file:
        blob = BlobWriter(file)
        yield blob
        blob.close()


def damaged_blobs(paths: Iterable[Path], engine: Engine, progress: Progress) -> list[Path]:
    """The blobs among ``paths`` that are absent or not what was written."""
    results = engine.run(_is_sound, paths, label="check media", progress=progress)
    return [path for path, is_sound in results if not is_sound]


def _is_sound(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
            digest = hashlib.sha256()
            while left > 0 and (data := file.read(min(left, _READ_BYTES))):
                digest.update(data)
                left -= len(data)
            return left == 0 and file.read() == digest.digest()
    except FileNotFoundError:
        return False
