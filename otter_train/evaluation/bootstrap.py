"""Estimates with the interval that holds 95% of those of 1,000 resamples of the queries.

The resamples depend on a seed and the number of samples alone, so that two models on the same samples are compared
fairly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "ratio", "resampled"]

_RESAMPLES: Final = 1000
_PERCENTILES: Final = (2.5, 97.5)


class Estimate(NamedTuple):
    """A value and the interval that holds 95% of those of the resamples; NaN-free: all 0 of no samples."""

    value: float
    low: float
    high: float


def ratio(totals: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> Estimate:
    """``totals.sum() / counts.sum()`` with its interval, where both hold one number per sample; a mean: of ones."""
    if not counts.sum():
        return Estimate(0.0, 0.0, 0.0)
    return resampled(len(counts), lambda drawn: float(totals[drawn].sum() / max(1e-12, counts[drawn].sum())), seed=seed)


def resampled(count: int, value: Callable[[NDArray[np.int64]], float], *, seed: int) -> Estimate:
    """``value`` of all of ``count`` samples, which it takes by their numbers, and of draws of as many with repeats."""
    generator = np.random.default_rng(seed)
    drawn = [value(generator.integers(count, size=count)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(drawn, _PERCENTILES)
    return Estimate(value(np.arange(count)), float(low), float(high))
