"""The encoded files of the media of a build: the list, and their bytes in the blobs of the work folder.

A blob holds encoded media until these are packed, and ends with its own SHA-256. A build that was killed resumes with
the blobs that it finds, perhaps days later or after the machine went down. So they are checked then, and the media of a
blob that was cut, removed or damaged are encoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import orjson

from mimicit.errors import BuildError
from mimicit.pipeline.disk import naming, scratch
from mimicit.pipeline.engines.local import Engine
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.tables import MEDIA_NAME
from mimicit.progress import Progress
from mimicit.shards.files import publish

_OPEN_BLOBS: Final = 64
_SMALL_BYTES: Final = 64 << 10  # a file up to this size is kept once read, as other samples usually show it
_BYTES_KEPT: Final = 48 << 20
_MEDIA_KEPT: Final = 1 << 14

_DIGEST_BYTES: Final = 32
_READ_BYTES: Final = 1 << 20


class StoredFile(NamedTuple):
    """One picture or frame: ``size`` bytes at ``offset`` of the file ``blob`` of the work folder."""

    blob: str
    offset: int
    size: int
    sha256: str
    extension: str


class StoredMedia:
    """Reads the encoded media of one work folder; keeps a bounded number of files open."""

    def __init__(self, work: Path) -> None:
        self._blobs = _Blobs(work)
        self.files = lru_cache(_MEDIA_KEPT)(partial(_files, ColumnFile(work / MEDIA_NAME)))
        self._kept: dict[StoredFile, bytes] = {}  # the oldest first
        self._bytes_kept = 0

    def close(self) -> None:
        """Close all blobs."""
        self._blobs.close()

    def read(self, file: StoredFile) -> bytes:
        """The bytes of one file; `BuildError` if they are not what was encoded."""
        data = self._kept.get(file)
        if data is None:
            data = self._blobs.read(file)
            if file.size <= _SMALL_BYTES:
                self._kept[file] = data
                self._bytes_kept += file.size
                while self._bytes_kept > _BYTES_KEPT:
                    self._bytes_kept -= len(self._kept.pop(next(iter(self._kept))))
        return data


def _files(media: ColumnFile, number: int) -> tuple[StoredFile, ...]:
    """The files of the medium in row ``number`` of MEDIA, in order."""
    value = orjson.loads(media.data("media", number))
    blob = media.text("file", number)
    offsets, sizes = media.integers("offsets", number), media.integers("sizes", number)
    return tuple(
        StoredFile(blob, offset, size, sha256, value["extension"])
        for offset, size, sha256 in zip(offsets, sizes, value["sha256"], strict=True)
    )


class _Blobs:
    """The blobs of one work folder."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._open: OrderedDict[str, int] = OrderedDict()

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, file: StoredFile) -> bytes:
        data = os.pread(self._descriptor(file.blob), file.size, file.offset)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise BuildError(
                f"{self._work / file.blob}: damaged since it was written; run the same command again, it is made anew"
            )
        return data

    def _descriptor(self, name: str) -> int:
        if name in self._open:
            self._open.move_to_end(name)
        else:
            if len(self._open) >= _OPEN_BLOBS:
                os.close(self._open.popitem(last=False)[1])
            self._open[name] = os.open(self._work / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._open[name]


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
