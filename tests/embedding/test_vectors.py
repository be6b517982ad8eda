"""Vectors as 8-bit integers: their cosines are exact, whatever computes them, and ties go to the smaller row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicit.embedding.vectors import NOTHING, best, cosines, inverse_norms, keys_of, quantise, rows_of


def some(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-127, 128, (rows, columns)).astype(np.int8)


@pytest.mark.parametrize("columns", [1, 16, 1024, 1025, 3000])
def test_cosines_are_those_of_whole_numbers(columns: int) -> None:
    one, other = some(20, columns), some(30, columns, 1)
    one[0] = other[0] = 127  # the largest product there is
    products = (one.astype(np.int64) @ other.astype(np.int64).T).astype(np.float32)
    wanted = products * inverse_norms(one)[:, None] * inverse_norms(other)
    assert np.array_equal(cosines(one, other), wanted)
    assert cosines(one, other)[0, 0] == pytest.approx(1, abs=1e-6)


def test_cosines_do_not_depend_on_how_many_are_computed_at_once() -> None:
    vectors = some(300, 512)
    whole = cosines(vectors, vectors)
    for size in (1, 7, 64):
        pieces = [cosines(vectors[start : start + size], vectors) for start in range(0, 300, size)]
        assert np.array_equal(np.concatenate(pieces), whole)


def test_a_vector_of_zeros_is_like_nothing() -> None:
    zeros = np.zeros((1, 8), np.int8)
    scores = cosines(zeros, np.concatenate([zeros, some(3, 8)]))
    assert np.array_equal(scores, np.zeros((1, 4)))
    assert not np.signbit(scores).any()


@given(st.floats(1e-20, 1e20), st.integers(0, 9))
def test_quantising_forgets_the_scale_and_keeps_the_direction(scale: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((4, 256))
    quantised = quantise(vectors * scale)
    assert np.array_equal(np.abs(quantised).max(axis=1), [127] * 4)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(cosines(quantised, quantised) - units @ units.T).max() < 0.01


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantise(np.array([[1.0, np.nan]]))
    assert np.array_equal(quantise(np.zeros((2, 3))), np.zeros((2, 3)))


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 1e-30, 0.5, 1.0]), max_size=12), st.integers(1, 14))
def test_best_sorts_by_score_and_then_by_row(scores: list[float], count: int) -> None:
    rows = np.arange(len(scores))
    found = rows_of(best(keys_of(np.array([scores], np.float32), rows), count))[0]
    wanted = sorted(rows, key=lambda row: (-scores[row], row))[:count]
    assert found.tolist() == wanted + [NOTHING] * (count - len(wanted))
