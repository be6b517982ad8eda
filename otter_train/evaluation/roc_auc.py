"""ROC AUC, the metric of HatefulMemes: how often a query whose answer is yes looks more like a yes than one with no."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["roc_auc"]


def roc_auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The share of pairs of a ``positive`` and another in which the positive has the higher of ``scores``; ties: half.

    0.5 where all are of one kind and nothing can be told. By the sum of the ranks (Mann and Whitney), in O(n log n).
    """
    yes = int(positive.sum())
    no = len(positive) - yes
    if not yes or not no:
        return 0.5
    _, kind, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[kind]  # from 1; equal scores share the mean of their places
    return float((ranks[positive].sum() - yes * (yes + 1) / 2) / (yes * no))
