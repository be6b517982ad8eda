"""Vectors shaped like those of an encoder: clusters within clusters of uneven size, few directions that matter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shaped_vectors(rows: int, columns: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """float64[rows, columns] of length 1."""
    rng = np.random.default_rng(seed)
    decay = 1 / np.sqrt(1 + np.arange(columns) / 8)
    themes = rng.standard_normal((100, columns)) * decay
    topics = 0.8 * rng.standard_normal((5_000, columns)) * decay + themes[rng.integers(0, 100, 5_000)]
    shares = np.arange(1, 5_001) ** -0.7
    topic = rng.choice(5_000, rows, p=shares / shares.sum())
    vectors = topics[topic] + 0.7 * rng.standard_normal((rows, columns)) * decay
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
