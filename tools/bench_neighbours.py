"""Recall and time of the search for neighbours, against looking at all of them and, where it is installed, faiss.

    OMP_NUM_THREADS=1 python tools/bench_neighbours.py [--vectors 100000] [--components 256]

The vectors are shaped like those of an encoder: clusters within clusters of uneven size, few directions that matter.
Every vector is a query; recall is measured on 2,000 of them.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mimicit.embedding.vectors import (
    PROBES,
    Int8,
    cell_count,
    inverse_norms,
    nearest,
    nearest_in_cells,
    open_cells,
    probe,
    quantise,
    train_centres,
    write_cells,
)

_NEIGHBOURS = 32  # kept by a build
_MEASURED = 8
_BATCH = 1_024


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=256)
    options = parser.parse_args()
    vectors = quantise(shaped_vectors(options.vectors, options.components))
    rows = np.linspace(0, len(vectors) - 1, min(len(vectors), 2_000)).astype(np.uint32)
    started = time.perf_counter()
    wanted = np.concatenate([nearest(vectors, part, _NEIGHBOURS) for part in np.array_split(rows, 4)])
    seconds = (time.perf_counter() - started) * len(vectors) / len(rows)
    print(f"{len(vectors):,} vectors of {options.components} components, {cell_count(len(vectors)):,} cells")
    print(f"{'search':<28}  {'build s':>8}  {'search s':>8}  recall@{_MEASURED}")
    print(f"{'all of them (extrapolated)':<28}  {0:>8.1f}  {seconds:>8.1f}  {1:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        built, searched, found = by_cells(Path(folder), vectors)
    print(f"{f'cells, {PROBES} probes':<28}  {built:>8.1f}  {searched:>8.1f}  {recall(found[rows], wanted):.4f}")
    for probes in (8, PROBES):
        result = by_faiss(vectors, rows, probes)
        if result is not None:
            built, searched, listed = result
            name = f"faiss IVF,SQ8, {probes} probes"
            print(f"{name:<28}  {built:>8.1f}  {searched:>8.1f}  {recall(listed, wanted):.4f}")


def shaped_vectors(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """float64[rows, columns], not of length 1."""
    rng = np.random.default_rng(0)
    decay = 1 / np.sqrt(1 + np.arange(columns) / 8)
    themes = rng.standard_normal((100, columns)) * decay
    topics = 0.8 * rng.standard_normal((5_000, columns)) * decay + themes[rng.integers(0, 100, 5_000)]
    shares = np.arange(1, 5_001) ** -0.7
    topic = rng.choice(5_000, rows, p=shares / shares.sum())
    return topics[topic] + 0.7 * rng.standard_normal((rows, columns)) * decay


def by_cells(folder: Path, vectors: Int8) -> tuple[float, float, npt.NDArray[np.uint32]]:
    """Seconds to build, seconds to search, and the neighbours of all vectors, by the parts that a build calls."""
    started = time.perf_counter()
    centres = train_centres(vectors, cell_count(len(vectors)))
    starts = range(0, len(vectors), _BATCH)
    probes = np.concatenate([probe(vectors[start : start + _BATCH], centres, PROBES) for start in starts])
    write_cells(folder, vectors, probes, len(centres))
    opened = open_cells(folder)
    built = time.perf_counter()
    found = np.empty((len(vectors), _NEIGHBOURS), np.uint32)
    for start in starts:
        rows = np.asarray(opened.rows[start : start + _BATCH])
        found[rows] = nearest_in_cells(opened, vectors[rows], rows, probes[rows], _NEIGHBOURS)
    return built - started, time.perf_counter() - built, found


def by_faiss(
    vectors: Int8, rows: npt.NDArray[np.uint32], probes: int
) -> tuple[float, float, npt.NDArray[np.int64]] | None:
    """The same for faiss's inverted file of 8-bit vectors, with the neighbours of ``rows`` alone."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    units = vectors * inverse_norms(vectors)[:, None]
    started = time.perf_counter()
    kind = f"IVF{cell_count(len(vectors))},SQ8"
    index = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(units)
    index.add(units)
    index.nprobe = probes
    built = time.perf_counter()
    _, found = index.search(units, _NEIGHBOURS + 1)
    searched = time.perf_counter()
    others = [[other for other in found[row] if other != row][:_NEIGHBOURS] for row in rows]
    return built - started, searched - built, np.array(others)


def recall(found: npt.NDArray[Any], wanted: npt.NDArray[np.uint32]) -> float:
    """The share of the nearest 8 that were found among the first 8."""
    pairs = zip(found[:, :_MEASURED], wanted[:, :_MEASURED], strict=True)
    return float(np.mean([len(set(one.tolist()) & set(other.tolist())) / _MEASURED for one, other in pairs]))


if __name__ == "__main__":
    main()
