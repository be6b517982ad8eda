"""A file that only grows, by whole pieces; where the disk is full they wait in memory until there is room."""

from __future__ import annotations

import logging
import os
from pathlib import Path

__all__ = ["GrowingFile"]

_log = logging.getLogger(__name__)


class GrowingFile:
    """Appends to the file ``path``, which is made when there is something to append."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size if path.exists() else 0
        self._waiting = b""

    def append(self, data: bytes) -> None:
        """Add ``data``; it is in the file when this returns, if there is room. Never a part of it is."""
        first = not self._waiting
        self._waiting += data
        try:
            with open(self.path, "ab") as file:
                file.write(self._waiting)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, self._size)
            if first:
                _log.warning("%s: %s; what belongs there waits for room", self.path, error.strerror)
            return
        self._size += len(self._waiting)
        self._waiting = b""
