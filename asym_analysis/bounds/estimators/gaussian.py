"""Mutual information of jointly Gaussian pairs, from canonical correlations."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import digamma

from asym_analysis.bounds.estimators.estimate import Estimate, jackknife_error, normal_scores

__all__ = ["canonical_correlations", "gaussian_estimate", "gaussian_nats"]

SMALLEST = 1e-10  # singular value, relative to the largest, of a direction that counts as constant
ROUNDING = 4 * np.finfo(float).eps  # range of a column over its largest entry, that is no more than rounding
EXACT = 1e-12  # of 1 - rho^2: below it one side determines the other


def canonical_correlations(
    x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]
) -> tuple[Float[np.ndarray, "k"], int, int]:
    """Canonical correlations of two sets of columns; constant and dependent columns are left out.

    Parameters
    ----------
    x, y
        Samples in rows.

    Returns
    -------
    correlations, rank_x, rank_y
        In descending order, and the dimensions that are left.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((50, 2))
    >>> rho, p, q = canonical_correlations(x, np.hstack([x[:, :1], np.ones((50, 1))]))
    >>> rho.round(6).tolist(), p, q
    ([1.0], 2, 1)
    """
    bases = [_basis(part) for part in (x, y)]
    rho = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return np.clip(rho, 0.0, 1.0), bases[0].shape[1], bases[1].shape[1]


def gaussian_nats(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> float:
    """-1/2 sum ln(1 - rho_i^2) over the canonical correlations, less its expected bias.

    ln det of a sample covariance with m = n - 1 degrees of freedom exceeds ln det of the true one, on average, by
    sum_i digamma((m - i + 1)/2) - ln(m/2), whatever the true one is. The bias of
    1/2 (ln det S_x + ln det S_y - ln det S_xy) is therefore known exactly; it is about p q/(2 n).

    Parameters
    ----------
    x, y
        Samples in rows.

    Returns
    -------
    float
        In nats; infinite where a canonical correlation is 1.
    """
    rho, p, q = canonical_correlations(x, y)
    if (1.0 - rho**2 < EXACT).any():
        return math.inf
    return float(-0.5 * np.log1p(-(rho**2)).sum()) - _bias(len(x), p, q)


def gaussian_estimate(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> Estimate:
    """Estimate the mutual information of jointly Gaussian pairs.

    Parameters
    ----------
    x, y
        Samples in rows. Constant columns, and columns that depend linearly on others, tell nothing and are left out.

    Returns
    -------
    Estimate
        Not reliable where the columns' normal scores give another value: the data are then not Gaussian.

    Raises
    ------
    ValueError
        If there are fewer than p + q + 2 samples.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> found = gaussian_estimate(generator.standard_normal((200, 5)), generator.standard_normal((200, 5)))
    >>> abs(found.nats) < 0.1
    True
    """
    n, (_, p, q) = len(x), canonical_correlations(x, y)
    if p == 0 or q == 0:
        return Estimate(0.0, 0.0, note=f"{'x' if p == 0 else 'y'} is constant: it tells nothing")
    if n < p + q + 2:
        raise ValueError(f"{n} samples are too few for {p} and {q} dimensions: take at least {p + q + 2}")
    nats = gaussian_nats(x, y)
    if math.isinf(nats):
        return Estimate(nats, 0.0, note="x determines a direction of y: the information is infinite")
    # Without dependence the spread is of second order, p q/(2 n^2), which ten blocks measure poorly.
    error = max(jackknife_error(gaussian_nats, x, y, p + q + 3), math.sqrt(p * q / 2) / n)
    a, b = normal_scores(x), normal_scores(y)
    scores, spread = gaussian_nats(a, b), jackknife_error(gaussian_nats, a, b, p + q + 3)
    differ = abs(scores - nats)
    if math.isfinite(spread) and differ > max(2.0 * spread, 0.02):
        note = f"not Gaussian: the columns' normal scores give {scores:.3g} nats; use method='ksg'"
        return Estimate(nats, max(error, differ), reliable=False, note=note)
    return Estimate(nats, error)


def _basis(values: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
    """Orthonormal columns that span the centred columns, each scaled to norm 1 first."""
    largest = np.abs(values).max(axis=0)
    scaled = values / np.where(largest > 0, largest, 1.0)  # squares of very large and small values leave the range
    kept = np.ptp(scaled, axis=0) > ROUNDING
    if not kept.any():
        return np.zeros((len(values), 0))
    centred = scaled - scaled.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    U, S, _ = np.linalg.svd(centred[:, kept] / norms[kept], full_matrices=False)
    return U[:, SMALLEST * S[0] < S]


def _bias(n: int, p: int, q: int) -> float:
    m = n - 1

    def excess(size: int) -> float:
        return float(digamma((m - np.arange(size)) / 2).sum() - size * math.log(m / 2))

    return 0.5 * (excess(p) + excess(q) - excess(p + q))
