"""Vectors as 8-bit integers, and cosines of them that every machine computes to the same bit.

A vector is stored as int8[d], scaled by itself so that its largest component becomes 127; the cosine does not depend
on scale, so nothing else is stored. The product of two such vectors is a whole number below 2**24 for d up to
1,040, and float32 holds those exactly: a float32 matrix product gives the exact integer whatever the order of its
sums, so BLAS, its threads and the kind of processor cannot change a bit, at the speed of BLAS. (Longer vectors are
multiplied in pieces.) After that comes one correctly rounded multiplication per norm.

Cost: one byte per component; against float32 the cosines of unit vectors with 256 components move by about 0.002.

`VectorCache` keeps vectors that a model has computed, by the content of what it saw, for any number of builds: one
SQLite file per model in a folder of the user's choice, named by the model's fingerprint, so other weights have another
file. A batch is one transaction, so a killed build loses at most the batch it was at, and builds that run side by side
wait for each other. A row holds the SHA-256 of a text or a stored picture, and its int8 vector. A fingerprint is a hash
over the files of a model's weights and configuration.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mimicit.errors import BuildError

Int8: TypeAlias = npt.NDArray[np.int8]
Float32: TypeAlias = npt.NDArray[np.float32]

NOTHING: Final = 0xFFFF_FFFF
"""Stands for "no row" if fewer rows are found than were asked for."""

_LARGEST: Final = 127
_EXACT_COMPONENTS: Final = 1024  # 1024 * 127**2 < 2**24
_NO_KEY: Final = np.iinfo(np.int64).min
_BLOCK: Final = 4096  # vectors in one go

_WAIT_S: Final = 60.0

PROBES: Final = 64
_MOST_CELLS: Final = 16_384
_SAMPLE_PER_CELL: Final = 48
_ROUNDS: Final = 8


def quantise(vectors: npt.NDArray[Any]) -> Int8:
    """int8[n, d] of finite numbers [n, d]; a vector of zeros stays zero, and its cosine with any vector is 0."""
    values = np.asarray(vectors, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a vector holds a number that is not finite")
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0)
    quantised: Int8 = np.rint(values * _LARGEST / np.where(largest == 0, 1, largest)).astype(np.int8)
    return quantised


def inverse_norms(vectors: Int8) -> Float32:
    """float32[n]: 1 over the length of each vector, and 0 for a vector of zeros."""
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.int64).astype(np.float64)
    inverse: Float32 = np.divide(1, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0).astype(np.float32)
    return inverse


def cosines(one: Int8, other: Int8) -> Float32:
    """float32[n, m]: the cosine of each of ``one`` int8[n, d] with each of ``other`` int8[m, d]."""
    products = _products(one, other)
    products *= inverse_norms(one)[:, None]
    products *= inverse_norms(other)
    products += 0.0  # -0.0, which some kernels return for sums of zeros, becomes 0.0
    return products


def keys_of(scores: Float32, rows: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """int64[n, m] that sort as ``scores`` float32[n, m] do, and equal scores by the smaller of ``rows`` uint32[m]."""
    bits = scores.view(np.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFF_FFFF)).astype(np.int64)
    ordered <<= 32
    ordered |= NOTHING - rows.astype(np.int64)
    return ordered


def rows_of(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The row of each key; `NOTHING` for the filling of `best`."""
    return np.where(keys == _NO_KEY, NOTHING, NOTHING - (keys & NOTHING)).astype(np.uint32)


def best(keys: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """int64[n, count]: the largest ``count`` keys of each row, largest first, filled up if there are fewer."""
    surplus = keys.shape[1] - count
    if surplus > 0:
        keys = np.partition(keys, surplus, axis=1)[:, surplus:]
    elif surplus < 0:
        keys = np.pad(keys, ((0, 0), (0, -surplus)), constant_values=_NO_KEY)
    return np.sort(keys, axis=1)[:, ::-1]


def nearest(
    vectors: Int8, rows: npt.NDArray[np.uint32], count: int, *, among: int | None = None
) -> npt.NDArray[np.uint32]:
    """uint32[n, count]: for each of ``rows`` [n], the ``count`` other rows of ``vectors`` int8[m, d] most like it.

    Nearest first, ties by the smaller row, filled up with `NOTHING`. If ``among`` is given, only the first ``among``
    rows are candidates. Memory: n times `_BLOCK` numbers.
    """
    queries = np.asarray(vectors[rows])
    vectors = vectors[:among]
    found = np.empty((len(rows), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        keys = keys_of(cosines(queries, block), np.arange(start, start + len(block)))
        mine = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        keys[mine, rows[mine] - start] = np.iinfo(np.int64).min  # nothing is its own neighbour
        found = best(np.concatenate([found, keys], axis=1), count)
    return rows_of(found) if len(vectors) else rows_of(best(found, count))


class VectorCache:
    """The vectors of the model with ``fingerprint`` in ``folder``, which is made if it is missing.

    Raises `BuildError` if the file there is not such a cache.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{hashlib.sha256(fingerprint.encode()).hexdigest()[:32]}.sqlite"
        self._db = sqlite3.connect(self._path, isolation_level=None, timeout=_WAIT_S)
        try:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS vector(content BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise BuildError(f"{self._path}: no cache of vectors ({error}); remove it") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def vectors(self, contents: Sequence[bytes], compute: Callable[[list[int]], Int8]) -> Int8:
        """int8[n, d] for the n ``contents`` (digests): as stored, or from ``compute`` (their places), then stored."""
        known = [self._known(content) for content in contents]
        missing = [place for place, vector in enumerate(known) if vector is None]
        if missing:
            computed = compute(missing)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR IGNORE INTO vector VALUES (?, ?)",
                [(contents[place], vector.tobytes()) for place, vector in zip(missing, computed, strict=True)],
            )
            self._db.execute("COMMIT")
            for place, vector in zip(missing, computed, strict=True):
                known[place] = vector
        return np.stack([vector for vector in known if vector is not None])

    def _known(self, content: bytes) -> Int8 | None:
        row = self._db.execute("SELECT vector FROM vector WHERE content = ?", (content,)).fetchone()
        return None if row is None else np.frombuffer(row[0], np.int8)


def files_fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, over the names and contents of a file, or of all files beneath a folder."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as content:
            part = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.name if file == path else file.relative_to(path).as_posix()}\0{part}\n".encode())
    return digest.hexdigest()


def _products(one: Int8, other: Int8) -> Float32:
    if one.shape[1] <= _EXACT_COMPONENTS:
        return one.astype(np.float32) @ other.astype(np.float32).T
    sums = np.zeros((len(one), len(other)))
    for start in range(0, one.shape[1], _EXACT_COMPONENTS):
        piece = slice(start, start + _EXACT_COMPONENTS)
        sums += one[:, piece].astype(np.float32) @ other[:, piece].astype(np.float32).T
    return sums.astype(np.float32)


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
