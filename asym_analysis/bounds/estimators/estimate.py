"""What every estimator returns, and the standard error from partitions of the samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import rankdata

__all__ = ["Estimate", "jackknife_error", "normal_scores", "partition_error"]

BLOCKS = 10  # of the jackknife
MOST_PARTS = 10  # of one partition


class Estimate(NamedTuple):
    """An estimate in nats, its standard error, and whether it can be trusted."""

    nats: float
    standard_error: float
    reliable: bool = True
    note: str = ""


def normal_scores(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Replace each column by the normal quantiles of its ranks; tied values keep one common score.

    Mutual information does not change under an invertible map of each column. The map gives every continuous column
    Gaussian marginals, so that heavy tails do not hide dependence from distances.

    Parameters
    ----------
    values
        Shape (n, d).

    Returns
    -------
    ndarray
        Shape (n, d).

    Examples
    --------
    >>> normal_scores(np.array([[1.0], [10.0], [1000.0]])).round(2).ravel().tolist()
    [-0.67, 0.0, 0.67]
    """
    return ndtri(rankdata(values, axis=0) / (len(values) + 1))


def partition_error(
    estimate: Callable[[np.ndarray, np.ndarray], float],
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "n q"],
    least: int,
    generator: np.random.Generator,
) -> float:
    """Standard error from the spread over disjoint parts of the samples, scaled by the variance's 1/n law.

    Parameters
    ----------
    estimate
        The estimator.
    x, y
        The samples.
    least
        Fewest samples in a part.
    generator
        Of the partitions.

    Returns
    -------
    float
        In nats; infinite where no two parts are large enough.

    References
    ----------
    .. [1] C. Holmes, I. Nemenman, Estimation of mutual information for real-valued data with error bars and controlled
       bias, Phys. Rev. E 100, 022404 (2019).
    """
    n = len(x)
    weighted = freedom = 0.0
    for parts in range(2, MOST_PARTS + 1):
        if n // parts < least:
            break
        chunks = np.array_split(generator.permutation(n), parts)
        values = [estimate(x[chunk], y[chunk]) for chunk in chunks]
        weighted += (parts - 1) * float(np.var(values, ddof=1)) / parts
        freedom += parts - 1
    return math.sqrt(weighted / freedom) if freedom else math.inf


def jackknife_error(
    estimate: Callable[[np.ndarray, np.ndarray], float],
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "n q"],
    least: int,
) -> float:
    """Standard error from leaving out each of ten blocks.

    Parameters
    ----------
    estimate
        The estimator.
    x, y
        The samples.
    least
        Fewest samples that the estimator takes.

    Returns
    -------
    float
        In nats; infinite where the rest would be too few.
    """
    blocks = np.array_split(np.arange(len(x)), min(BLOCKS, len(x)))
    if len(x) - len(blocks[0]) < least:
        return math.inf
    left = np.array([estimate(np.delete(x, block, axis=0), np.delete(y, block, axis=0)) for block in blocks])
    count = len(blocks)
    return float(math.sqrt((count - 1) / count * np.square(left - left.mean()).sum()))
