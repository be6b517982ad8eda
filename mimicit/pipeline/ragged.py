"""Lists of different lengths as flat arrays: ``counts`` say how many values each list has.

All functions take and give int64 arrays, and look at every value once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Numbers", "before", "flat", "list_array", "owners", "starts", "sums"]

Numbers: TypeAlias = npt.NDArray[np.int64]


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
