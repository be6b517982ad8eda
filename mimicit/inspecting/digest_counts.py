"""How often the same thing occurs among many, exactly, with 16 bytes of disk for each occurrence.

Records lie in 256 parts by their first byte, so that equal digests meet without all in memory: of 10^9, four million at
a time.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_RECORD: Final = np.dtype([("digest", "<u8"), ("row", "<u8")])
_ROW: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A thing that occurs ``count`` times, first in the sample at ``row``; `DigestCounts.digest` names it."""

    count: int
    row: int
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """``total`` things, ``distinct`` of them; those that occur most, more than once."""

    total: int = 0
    distinct: int = 0
    most: tuple[Repeated, ...] = ()


class DigestCounts:
    """Counts things by 64 bits of a hash; among 10^9 things, the chance that two are confused is 3 %."""

    def __init__(self, folder: Path) -> None:
        self._records = DiskRecords(folder, _RECORD)

    def add(self, thing: str, row: int) -> None:
        """Count one occurrence of ``thing``, in the sample at ``row``."""
        self._records.add(_hash(thing) + _ROW.pack(row))

    @staticmethod
    def digest(thing: str) -> int:
        """What `Repeated.digest` is for ``thing``."""
        return int.from_bytes(_hash(thing), "little")

    def repeats(self, most: int) -> Repeats:
        """The counts, and the ``most`` things that are repeated most."""
        total = distinct = 0
        best: list[tuple[int, int, int]] = []
        for records in self._records.parts():
            records = records[np.lexsort((records["row"], records["digest"]))]
            digests, firsts, counts = np.unique(records["digest"], return_index=True, return_counts=True)
            total += len(records)
            distinct += len(digests)
            top = np.argsort(-counts, kind="stable")[:most]
            found = zip(counts[top], records["row"][firsts[top]], digests[top], strict=True)
            best = nlargest(most, [*best, *((int(c), -int(r), int(d)) for c, r, d in found if c > 1)])
        repeated = tuple(Repeated(count=count, row=-row, digest=digest) for count, row, digest in best)
        return Repeats(total=total, distinct=distinct, most=repeated)


def _hash(thing: str) -> bytes:
    return hashlib.blake2b(thing.encode(), digest_size=8).digest()


_HELD_BYTES: Final = 16 << 20


class DiskRecords:
    """Collects records of ``dtype`` in the new folder ``folder``, which the caller removes."""

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
