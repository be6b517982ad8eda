"""Fixed-size records on disk, in 256 parts by their first byte, so that equal digests meet without all in memory.

The first bytes of a record are a digest, so the parts are of one size: of 10^9 records, four million at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spill"]

_HELD_BYTES: Final = 16 << 20


class Spill:
    """Collects records of ``dtype`` in the new folder ``folder``, which its maker removes."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        folder.mkdir()
        self._folder = folder
        self._dtype = dtype
        self._held = [bytearray() for _ in range(256)]
        self._size = 0

    def add(self, record: bytes) -> None:
        """Add one record, as the bytes of ``dtype``."""
        self._held[record[0]] += record
        self._size += len(record)
        if self._size >= _HELD_BYTES:
            self._write()

    def parts(self) -> Iterator[NDArray[Any]]:
        """The records part by part, those whose first byte is 0, is 1, ...: 256 arrays, some maybe empty."""
        for number, held in enumerate(self._held):
            path = self._folder / str(number)
            yield np.frombuffer((path.read_bytes() if path.exists() else b"") + held, self._dtype)

    def _write(self) -> None:
        for number, held in enumerate(self._held):
            if held:
                with open(self._folder / str(number), "ab") as file:
                    file.write(held)
                held.clear()
        self._size = 0
