"""The encoded files of the media of a build: which there are, and their bytes, out of the blobs of the work folder."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import orjson

from mimicit.errors import BuildError
from mimicit.pipeline.parts import ColumnFile
from mimicit.pipeline.tables import MEDIA_NAME

__all__ = ["StoredFile", "StoredMedia"]

_OPEN_BLOBS: Final = 64
_MEDIA_KEPT: Final = 1 << 14


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
        self._work = work
        self._media = ColumnFile(work / MEDIA_NAME)
        self._blobs: OrderedDict[str, int] = OrderedDict()
        self.files = lru_cache(_MEDIA_KEPT)(self._files)

    def close(self) -> None:
        """Close all blobs."""
        for descriptor in self._blobs.values():
            os.close(descriptor)
        self._blobs.clear()

    def read(self, file: StoredFile) -> bytes:
        """The bytes of one file; `BuildError` where they are not what was encoded."""
        data = os.pread(self._blob(file.blob), file.size, file.offset)
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise BuildError(
                f"{self._work / file.blob}: damaged since it was written; run the same command again, it is made anew"
            )
        return data

    def _files(self, number: int) -> tuple[StoredFile, ...]:
        """The files of the medium in row ``number`` of MEDIA, in order."""
        value = orjson.loads(self._media.data("media", number))
        blob = self._media.text("file", number)
        offsets, sizes = self._media.integers("offsets", number), self._media.integers("sizes", number)
        return tuple(
            StoredFile(blob, offset, size, sha256, value["extension"])
            for offset, size, sha256 in zip(offsets, sizes, value["sha256"], strict=True)
        )

    def _blob(self, name: str) -> int:
        if name in self._blobs:
            self._blobs.move_to_end(name)
        else:
            if len(self._blobs) >= _OPEN_BLOBS:
                os.close(self._blobs.popitem(last=False)[1])
            self._blobs[name] = os.open(self._work / name, os.O_RDONLY | os.O_CLOEXEC)
        return self._blobs[name]
