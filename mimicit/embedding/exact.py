"""The nearest of all vectors by looking at each: exact, for tens of thousands, and the measure for the rest."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mimicit.embedding.vectors import Int8, best, cosines, keys_of, rows_of

__all__ = ["nearest"]

_BLOCK: Final = 4096  # vectors compared at once with all queries


def nearest(vectors: Int8, rows: npt.NDArray[np.uint32], count: int) -> npt.NDArray[np.uint32]:
    """uint32[n, count]: for each of ``rows`` [n], the ``count`` other rows of ``vectors`` int8[m, d] most like it.

    Nearest first, equals by the smaller row, filled up with `NOTHING`. Memory: n times `_BLOCK` numbers.
    """
    queries = np.asarray(vectors[rows])
    found = np.empty((len(rows), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        keys = keys_of(cosines(queries, block), np.arange(start, start + len(block)))
        mine = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        keys[mine, rows[mine] - start] = np.iinfo(np.int64).min  # nothing is its own neighbour
        found = best(np.concatenate([found, keys], axis=1), count)
    return rows_of(found) if len(vectors) else rows_of(best(found, count))
