"""The nearest of many vectors: an inverted file of cells around frozen centres, searched cell by cell.

The centres come from spherical k-means on an evenly spaced sample, in whole numbers from end to end: exact cosines
(see `vectors`), sums in int64, centres quantised again after each round. So the cells, and with them the neighbours
that are missed, are the same on every machine and for any number of threads or workers. The vectors are written again
in the order of their cells; a task takes queries that lie next to each other in that order, so it probes few cells,
and reads each of them once, as one piece. Memory: the centres, one cell, and the best so far of one task.

Cost for n vectors: about 4 * sqrt(n) cells, of which each query looks at `PROBES`; so time grows as n ** 1.5. How much
is missed depends on the vectors: next to nothing with those of an encoder, which come in clusters; more with hashed
texts, which hardly do (about a sixth of the 8 nearest of 47,000 captions in 77 languages).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mimicit.embedding.vectors import Int8, best, cosines, keys_of, quantise, rows_of

PROBES: Final = 64
_MOST_CELLS: Final = 16_384
_SAMPLE_PER_CELL: Final = 48
_ROUNDS: Final = 8
_BLOCK: Final = 4096  # vectors in one go


class Cells(NamedTuple):
    """An inverted file: vectors in the order of their cells, the row of each, and where each cell begins."""

    vectors: Int8  # [n, d]
    rows: npt.NDArray[np.uint32]  # [n]
    starts: npt.NDArray[np.int64]  # [cells + 1]


def cell_count(vectors: int) -> int:
    """The number of cells for this many ``vectors``: the power of two next below 4 times their square root."""
    return min(_MOST_CELLS, 1 << max(0, int((16 * vectors) ** 0.5).bit_length() - 1))


def train_centres(vectors: Int8, cells: int) -> Int8:
    """int8[cells, d]: the centres of the cells of ``vectors`` int8[n, d], ``n >= cells``."""
    step = max(1, len(vectors) // (cells * _SAMPLE_PER_CELL))
    sample = np.array(vectors[::step][: cells * _SAMPLE_PER_CELL])
    centres = sample[np.arange(cells) * len(sample) // cells]
    for _ in range(_ROUNDS):
        nearest = np.concatenate([probe(block, centres, 1)[:, 0] for block in _blocks(sample)])
        order = np.argsort(nearest, kind="stable")
        filled, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(sample[order].astype(np.int64), starts, axis=0)
        centres = centres.copy()  # a centre that is nearest to no vector stays where it is
        centres[filled] = quantise(sums)
    return centres


def _blocks(vectors: Int8) -> list[Int8]:
    return [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]


def probe(vectors: Int8, centres: Int8, count: int) -> npt.NDArray[np.uint32]:
    """uint32[n, count]: the cells whose centres are most like each of ``vectors`` int8[n, d], nearest first."""
    numbers = np.arange(len(centres))
    return rows_of(best(keys_of(cosines(vectors, centres), numbers), min(count, len(centres))))


def write_cells(folder: Path, vectors: Int8, probes: npt.NDArray[np.uint32], cells: int) -> None:
    """Write ``vectors`` int8[n, d] to ``folder`` by cell, which is the first of each one's ``probes`` uint32[n, p]."""
    sizes = np.zeros(cells, np.int64)
    for start in range(0, len(vectors), _BLOCK):
        sizes += np.bincount(probes[start : start + _BLOCK, 0], minlength=cells)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    np.save(folder / "starts.npy", starts)
    by_cell = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.int8, vectors.shape)
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.uint32, (len(vectors),))
    free = starts[:-1].copy()
    for start in range(0, len(vectors), _BLOCK):
        cell = np.asarray(probes[start : start + _BLOCK, 0])
        order = np.argsort(cell, kind="stable")
        names, firsts, counts = np.unique(cell[order], return_index=True, return_counts=True)
        places = np.arange(len(cell)) + np.repeat(free[names] - firsts, counts)
        by_cell[places] = vectors[start + order]
        rows[places] = start + order
        free[names] += counts
    by_cell.flush()
    rows.flush()


def open_cells(folder: Path) -> Cells:
    """What `write_cells` wrote, mapped into memory."""
    names = ("vectors", "rows", "starts")
    return Cells(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def nearest_in_cells(
    cells: Cells, queries: Int8, rows: npt.NDArray[np.uint32], probes: npt.NDArray[np.uint32], count: int
) -> npt.NDArray[np.uint32]:
    """uint32[n, count] as `mimicit.embedding.vectors.nearest` for ``rows`` [n], looking only at ``probes`` [n, p].

    ``queries`` int8[n, d] are the vectors of ``rows``; together they should probe few cells.
    """
    found = best(np.empty((len(rows), 0), np.int64), count)
    asked, places = np.unique(probes, return_inverse=True)
    place_of = places.reshape(probes.shape)
    asking = np.argsort(place_of, axis=None, kind="stable") // probes.shape[1]
    ends = np.cumsum(np.bincount(place_of.ravel(), minlength=len(asked)))
    for number, cell in enumerate(asked):
        who = asking[ends[number - 1] if number else 0 : ends[number]]
        for start in range(cells.starts[cell], cells.starts[cell + 1], _BLOCK):
            members = slice(start, min(start + _BLOCK, cells.starts[cell + 1]))
            other = np.asarray(cells.rows[members])
            keys = keys_of(cosines(queries[who], np.asarray(cells.vectors[members])), other)
            keys[rows[who][:, None] == other] = np.iinfo(np.int64).min  # nothing is its own neighbour
            found[who] = best(np.concatenate([found[who], keys], axis=1), count)
    return rows_of(found)
