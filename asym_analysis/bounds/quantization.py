"""Few levels in place of many values: evenly spaced, or placed by k-means."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int32

__all__ = ["even_levels", "k_means_levels", "nearest_level"]

MOST_FITTED = 200_000  # values that k-means looks at: the levels are transmitted, so how they were found is free


def even_levels(levels: int) -> Float32[np.ndarray, "levels"]:
    """`levels` evenly spaced numbers from -1 to 1; an odd number of them contains 0.

    Examples
    --------
    >>> even_levels(3)
    array([-1.,  0.,  1.], dtype=float32)
    """
    if levels < 2:
        raise ValueError(f"a quantizer needs at least two levels, not {levels}")
    return np.linspace(-1.0, 1.0, levels).astype(np.float32)


def k_means_levels(values: Float[np.ndarray, "n"], levels: int) -> Float32[np.ndarray, "levels"]:
    """The levels of Lloyd's algorithm on a line, started at evenly spaced quantiles; ascending, rounded to float16.

    Examples
    --------
    >>> k_means_levels(np.array([0.0, 0.0, 1.0, 1.0, 1.0]), 2)
    array([0., 1.], dtype=float32)
    """
    if levels < 2:
        raise ValueError(f"a quantizer needs at least two levels, not {levels}")
    x = np.sort(values[:: max(1, len(values) // MOST_FITTED)].astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(x)])
    centres = np.quantile(x, (np.arange(levels) + 0.5) / levels)
    for _ in range(60):
        cuts = np.concatenate([[0], np.searchsorted(x, (centres[1:] + centres[:-1]) / 2), [len(x)]])
        counts = np.diff(cuts)
        moved = np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), centres)
        if np.abs(moved - centres).max() <= 1e-6 * max(1e-30, np.abs(centres).max()):
            break
        centres = moved
    return np.sort(centres).astype(np.float16).astype(np.float32)


def nearest_level(values: Float32[np.ndarray, "n"], levels: Float32[np.ndarray, "levels"]) -> Int32[np.ndarray, "n"]:
    """Index of the level nearest to each value; `levels` ascending.

    Examples
    --------
    >>> nearest_level(np.array([-2.0, 0.1, 0.6], dtype=np.float32), even_levels(3))
    array([0, 1, 2], dtype=int32)
    """
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.int32)
