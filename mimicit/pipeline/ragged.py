"""Lists of different lengths as flat arrays: ``counts`` say how many values each list has.

All functions take and return int64 arrays, and look at every value once. `Pieces` builds many JSON texts in one go from
pieces that several of them share: Arrow copies the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

Numbers: TypeAlias = npt.NDArray[np.int64]
_IS_ESCAPED: Final = np.array([byte < 0x20 or byte in b'"\\' for byte in range(256)])


def starts(counts: Numbers) -> Numbers:
    """int64[lists]: where each list begins."""
    return np.cumsum(counts) - counts


def owners(counts: Numbers) -> Numbers:
    """int64[values]: the list of each value."""
    return np.repeat(np.arange(len(counts)), counts)


def sums(values: Numbers, counts: Numbers) -> Numbers:
    """int64[lists]: the sum of each list."""
    ends = np.concatenate([[0], np.cumsum(values)])
    first = starts(counts)
    found: Numbers = ends[first + counts] - ends[first]
    return found


def before(values: Numbers, counts: Numbers) -> Numbers:
    """int64[values]: the sum of the values before each in its list."""
    so_far = np.cumsum(values) - values
    return so_far - np.repeat(so_far[np.minimum(starts(counts), len(values) - 1)], counts) if len(values) else so_far


def flat(lists: pa.ListArray, rows: Numbers) -> tuple[Numbers, Numbers]:
    """(the values of the lists in ``rows`` one after the other, the counts of these lists)."""
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    counts = (offsets[rows + 1] - offsets[rows]).astype(np.int64)
    places = np.arange(counts.sum()) + np.repeat(offsets[rows] - starts(counts), counts)
    return values[places], counts


def list_array(values: pa.Array, counts: Numbers) -> pa.ListArray:
    """The lists as an Arrow array."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


class Pieces:
    """Pieces of texts, each with a number, by which `joined` puts texts together."""

    def __init__(self) -> None:
        self._arrays: list[pa.Array] = []
        self._count = 0

    def add(self, pieces: Sequence[bytes] | pa.Array) -> int:
        """Add pieces; returns the number of the first, which the others follow."""
        array = pieces if isinstance(pieces, pa.Array) else pa.array(pieces, pa.large_binary())
        self._arrays.append(array)
        self._count += len(array)
        return self._count - len(array)

    def add_texts(self, texts: pa.Array) -> int:
        """Add texts (large strings), as between the quotation marks of JSON; returns the number of the first."""
        data = texts.buffers()[2]
        if data is None or not _IS_ESCAPED[np.frombuffer(data, np.uint8)].any():
            return self.add(texts.cast(pa.large_binary()))
        # A quotation mark within a text has a backslash before it, so the separator of two texts is in no text.
        return self.add(orjson.dumps(texts.to_numpy(zero_copy_only=False).tolist())[2:-2].split(b'","'))

    def joined(self, order: Numbers, begins: Numbers) -> pa.Array:
        """Texts (large binary) from the pieces ``order``; ``begins`` are the places in it where each text begins."""
        whole = pa.concat_arrays(self._arrays).take(pa.array(order))
        offsets = np.frombuffer(whole.buffers()[1], np.int64)[np.append(begins, len(order))]
        return pa.Array.from_buffers(pa.large_binary(), len(begins), [None, pa.py_buffer(offsets), whole.buffers()[2]])
