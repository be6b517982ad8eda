"""How far a number that was measured on some samples could lie from that on all of them: the percentile bootstrap."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "ratio"]

_RESAMPLES: Final = 1000
_PERCENTILES: Final = (2.5, 97.5)


class Estimate(NamedTuple):
    """A ratio and the interval that holds 95% of those of the resamples; NaN-free: all 0 of no samples."""

    value: float
    low: float
    high: float


def ratio(totals: NDArray[np.float64], counts: NDArray[np.float64], *, seed: int) -> Estimate:
    """``totals.sum() / counts.sum()`` with its interval, where both hold one number per sample.

    A mean is a ratio to ones. The resamples depend on ``seed`` and the number of samples alone, so that two models on
    the same samples are compared fairly. Cost: 1,000 draws of all samples.
    """
    if not counts.sum():
        return Estimate(0.0, 0.0, 0.0)
    generator = np.random.default_rng(seed)
    ratios = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        drawn = generator.integers(len(counts), size=len(counts))
        ratios[number] = totals[drawn].sum() / max(1e-12, counts[drawn].sum())
    low, high = np.percentile(ratios, _PERCENTILES)
    return Estimate(float(totals.sum() / counts.sum()), float(low), float(high))
