"""Mutual information of discrete values, with the Miller-Madow correction over occupied cells."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int
from scipy.special import digamma
from scipy.stats.contingency import crosstab

from asym_analysis.bounds.estimators.estimate import Estimate

__all__ = ["is_whole", "miller_madow_bias", "plug_in_estimate"]

FEW_SINGLETONS = 5  # cells seen once: with fewer the two corrections agree but for noise
LEAST_COVERAGE = 0.9  # of the joint distribution by the cells seen; below it the correction is no longer enough


def is_whole(values: np.ndarray) -> bool:
    """Say whether every value is a whole number.

    Parameters
    ----------
    values
        Finite numbers.

    Returns
    -------
    bool
        True for integers, and for floats that are equal to integers.

    Examples
    --------
    >>> is_whole(np.array([0.0, 2.0])), is_whole(np.array([0.5]))
    (True, False)
    """
    return bool((values == np.floor(values)).all())


def miller_madow_bias(joint: Int[np.ndarray, "*shape"], samples: int) -> float:
    """Leading bias of the plug-in estimate: (K_xy - K_x - K_y + 1)/(2n) over occupied cells.

    Parameters
    ----------
    joint
        Counts, rows of x and columns of y; K_xy, K_x and K_y are the numbers of its occupied cells, rows and columns.
    samples
        n.

    Returns
    -------
    float
        In nats. Negative where y is a function of x: the plug-in entropy is too small.

    References
    ----------
    .. [1] docs/theory.md, section 5.8.

    Examples
    --------
    >>> miller_madow_bias(np.array([[5, 5], [5, 5]]), 20), miller_madow_bias(np.array([[10, 0], [0, 10]]), 20)
    (0.025, -0.025)
    """
    cells, rows, columns = (int((part > 0).sum()) for part in (joint, joint.sum(1), joint.sum(0)))
    return (cells - rows - columns + 1) / (2 * samples)


def _digamma_entropy(counts: Int[np.ndarray, "*shape"], samples: int) -> float:
    """Entropy in nats with Grassberger's correction (arXiv physics/0307138), which is better where cells are rare."""
    n = counts[counts > 0].astype(np.float64)
    alternating = np.where(n % 2 == 0, 0.5, -0.5) * (digamma((n + 1) / 2) - digamma(n / 2))
    return math.log(samples) - float(n @ (digamma(n) + alternating)) / samples


def plug_in_estimate(x: Int[np.ndarray, "n"], y: Int[np.ndarray, "n"]) -> Estimate:
    """Mutual information of the table of counts, less its Miller-Madow bias.

    Parameters
    ----------
    x, y
        Whole numbers, shape (n,).

    Returns
    -------
    Estimate
        The standard error joins the delta method's first-order term with the second-order one, which is all that is
        left where x and y are independent or one determines the other, and, where cells are rare, the distance to
        Grassberger's correction. Not reliable where the cells seen cover less than 90 percent of the distribution
        (Good-Turing estimate): the standard error is then infinite.

    Examples
    --------
    >>> x = np.array([0, 0, 1, 1] * 50)
    >>> round(plug_in_estimate(x, x).nats, 3)
    0.696
    """
    table = crosstab(x, y).count
    n = int(table.sum())
    joint = table / n
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    log_ratio = np.log(joint[seen] / outer[seen])
    raw = float(joint[seen] @ log_ratio)
    bias = miller_madow_bias(table, n)
    first = max(float(joint[seen] @ log_ratio**2) - raw**2, 0.0) / n
    second = abs(bias) / n  # of a chi-squared variable over 2n; on average `first` exceeds its own part by twice this
    other = _digamma_entropy(table.sum(1), n) + _digamma_entropy(table.sum(0), n) - _digamma_entropy(table, n)
    rare = min(1.0, float((table == 1).sum()) / FEW_SINGLETONS)
    error = math.sqrt(max(first - second / 2, second)) + rare * abs(raw - bias - other)
    coverage = 1.0 - float((table == 1).sum()) / n
    if coverage < LEAST_COVERAGE:
        note = (
            f"{int(seen.sum())} cells are occupied by {n} samples and cover about {coverage:.0%} of the distribution: "
            "cannot tell; merge values or take more samples"
        )
        return Estimate(raw - bias, math.inf, reliable=False, note=note)
    return Estimate(raw - bias, error)
