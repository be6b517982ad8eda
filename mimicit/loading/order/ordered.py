"""What every loader reads from: values in an endless order, cut in two halves.

The first half is arithmetic: positions to *addresses* (a row, the rows of a pack, a part and its address). It runs in
the process that trains. The second half, `fetch`, reads the value at an address; it holds no position, no order and no
filter, so it is all that worker processes get.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

__all__ = ["PARTS", "Address", "Ordered", "digest"]

Address = Any
"""Where one value lies, as its own `Ordered.fetch` knows it: small, hashable, picklable."""

PARTS = ("content", "order", "filter", "mixture", "packing")
"""What fixes the value at a position; each has a fingerprint of its own, so that a mismatch can be named."""

Value_co = TypeVar("Value_co", covariant=True)


class Ordered(Protocol[Value_co]):
    """Values in an endless order: position p lies in epoch ``p // len``, and is a pure function of p."""

    def __len__(self) -> int:
        """Positions of one epoch."""

    def addresses(self, positions: Sequence[int]) -> list[Address]:
        """Where the values of ``positions`` (at least 0, in any order) lie."""

    @property
    def fetch(self) -> Callable[[Address], Value_co | None]:
        """Reads the value at an address; None where it is damaged and damage is masked. Can be pickled."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """A digest for each of `PARTS`; equal digests mean the same values at all positions."""


def digest(*values: object) -> str:
    """64 bits of a hash of ``values`` in hexadecimal: of the bytes of an array, of the text of anything else."""
    result = hashlib.blake2b(digest_size=8)
    for value in values:
        data: memoryview = memoryview(str(value).encode())
        if isinstance(value, np.ndarray):
            data = np.ascontiguousarray(value).data
        result.update(data.nbytes.to_bytes(8, "little"))
        result.update(data)
    return result.hexdigest()
