"""The search: all of them exactly, or those in the nearest cells, the same whatever the blocks, workers and threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.embedding.vectors import (
    NOTHING,
    PROBES,
    Int8,
    cell_count,
    cosines,
    nearest,
    nearest_in_cells,
    open_cells,
    probe,
    quantise,
    train_centres,
    write_cells,
)
from tests.factories.vectors import shaped_vectors


def by_hand(vectors: Int8, row: int, count: int) -> list[int]:
    """The plainest search: sort all others."""
    scores = cosines(vectors[row : row + 1], vectors)[0]
    others = sorted((n for n in range(len(vectors)) if n != row), key=lambda n: (-scores[n], n))
    return others[:count] + [NOTHING] * (count - len(others))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.integers(2, 9))
def test_nearest_finds_what_sorting_all_finds(rows: int, count: int, seed: int, block: int) -> None:
    vectors = np.random.default_rng(seed).integers(-2, 3, (rows, 3)).astype(np.int8)  # few values: many ties
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mimicit.embedding.vectors._BLOCK", block)
        found = nearest(vectors, np.arange(rows, dtype=np.uint32), count)
    assert found.tolist() == [by_hand(vectors, row, count) for row in range(rows)]


def search_by_cells(folder: Path, vectors: Int8, count: int, probes: int, batch: int) -> np.ndarray:
    centres = train_centres(vectors, cell_count(len(vectors)))
    probed = probe(vectors, centres, probes)
    folder.mkdir()
    write_cells(folder, vectors, probed, len(centres))
    opened = open_cells(folder)
    found = np.empty((len(vectors), count), np.uint32)
    for start in range(0, len(vectors), batch):
        rows = np.asarray(opened.rows[start : start + batch])
        found[rows] = nearest_in_cells(opened, vectors[rows], rows, probed[rows], count)
    return found


def test_all_cells_together_are_an_exact_search(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).integers(-3, 4, (500, 4)).astype(np.int8)
    wanted = nearest(vectors, np.arange(500, dtype=np.uint32), 9)
    for batch in (64, 500):
        found = search_by_cells(tmp_path / str(batch), vectors, 9, probes=1000, batch=batch)
        assert np.array_equal(found, wanted)


def test_a_cell_larger_than_a_block_is_searched_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicit.embedding.vectors._BLOCK", 7)
    vectors = np.random.default_rng(1).integers(-3, 4, (300, 4)).astype(np.int8)
    wanted = nearest(vectors, np.arange(300, dtype=np.uint32), 5)
    assert np.array_equal(search_by_cells(tmp_path / "cells", vectors, 5, probes=1000, batch=50), wanted)


def test_every_row_lies_in_one_cell_beside_its_vector(tmp_path: Path) -> None:
    vectors = quantise(shaped_vectors(5_000, 16))
    search_by_cells(tmp_path / "cells", vectors, 1, probes=2, batch=3_000)
    opened = open_cells(tmp_path / "cells")
    assert np.array_equal(np.sort(opened.rows), np.arange(5_000))
    assert np.array_equal(opened.vectors, vectors[opened.rows])
    assert opened.starts[-1] == 5_000


def test_cells_miss_few_neighbours(tmp_path: Path) -> None:
    vectors = quantise(shaped_vectors(10_000, 64))
    rows = np.arange(0, 10_000, 25, dtype=np.uint32)
    wanted = nearest(vectors, rows, 8)
    found = search_by_cells(tmp_path / "cells", vectors, 8, PROBES, 1_024)[rows]
    recall = np.mean([len(set(a) & set(b)) / 8 for a, b in zip(wanted, found, strict=True)])
    assert recall >= 0.97


def test_cells_are_the_same_with_one_thread_and_with_two(tmp_path: Path) -> None:
    code = (
        "import hashlib, sys; from pathlib import Path\n"
        "from mimicit.embedding.vectors import quantise\n"
        "from tests.factories.vectors import shaped_vectors\n"
        "from tests.embedding.test_search import search_by_cells\n"
        "found = search_by_cells(Path(sys.argv[1]), quantise(shaped_vectors(2500, 256)), 8, 12, 1024)\n"
        "print(hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    digests = set()
    for threads in ("1", "2"):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        command = [sys.executable, "-c", code, str(tmp_path / threads)]
        root = Path(__file__).parents[2]
        result = subprocess.run(
            command, env={**os.environ, **limits}, capture_output=True, text=True, check=True, cwd=root
        )
        files = sorted((tmp_path / threads).iterdir())
        digests.add((result.stdout, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)))
    assert len(digests) == 1


@pytest.mark.slow
def test_recall_at_8_of_100_000(tmp_path: Path) -> None:
    vectors = quantise(shaped_vectors(100_000, 256))
    rows = np.arange(0, 100_000, 20, dtype=np.uint32)
    wanted = np.concatenate([nearest(vectors, part, 8) for part in np.split(rows, 10)])
    found = search_by_cells(tmp_path / "cells", vectors, 8, PROBES, 1_024)[rows]
    recall = np.mean([len(set(a) & set(b)) / 8 for a, b in zip(wanted, found, strict=True)])
    print(f"recall@8 of 100,000 vectors: {recall:.4f}")  # noqa: T201 - the figure this test is about
    assert recall >= 0.95
