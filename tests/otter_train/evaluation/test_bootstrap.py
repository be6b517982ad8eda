"""Intervals hold the truth about as often as they say, and the same seed gives the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from otter_train.evaluation.metrics import ratio


def test_the_interval_holds_the_true_ratio_most_of_the_time() -> None:
    hits = 0
    for trial in range(100):
        generator = np.random.default_rng(trial)
        counts = generator.integers(1, 10, 80).astype(np.float64)
        totals = counts * generator.exponential(2.0, 80)
        estimate = ratio(totals, counts, seed=0)
        assert estimate.low <= estimate.value <= estimate.high
        hits += estimate.low <= 2.0 <= estimate.high
    assert 85 <= hits <= 99


def test_the_seed_decides_and_nothing_else() -> None:
    totals, counts = np.arange(20.0), np.ones(20)
    assert ratio(totals, counts, seed=1) == ratio(totals, counts, seed=1) != ratio(totals, counts, seed=2)
    assert ratio(totals, counts, seed=1).value == 9.5


@pytest.mark.parametrize("counts", [np.zeros(0), np.zeros(4)])
def test_nothing_counted_is_nought(counts: np.ndarray) -> None:
    assert ratio(np.ones(len(counts)), counts, seed=0) == (0.0, 0.0, 0.0)
