"""Mutual information from nearest neighbours, for continuous, mixed and discrete columns."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.special import digamma

from asym_analysis.bounds.estimators.discrete import plug_in_estimate
from asym_analysis.bounds.estimators.estimate import Estimate, normal_scores, partition_error
from asym_analysis.bounds.estimators.gaussian import EXACT, canonical_correlations

__all__ = ["ksg_estimate"]

CALIBRATION_DRAWS = 12
CALIBRATION_SAMPLES = 2000  # at most, in one draw
FEW_VALUES = 0.1  # distinct values per sample below which a column is discrete
LARGEST_BIAS = 0.1  # of the value itself: beyond it the value is out of reach


def ksg_estimate(
    x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"], *, neighbours: int = 3, seed: int = 0
) -> Estimate:
    """Estimate mutual information from the distances to the k-th nearest neighbour.

    Columns are replaced by their normal scores first. Where both sides are discrete the table of counts is used;
    where some samples coincide, neighbours at distance zero are counted (the mixture estimator of Gao and others).
    The bias is measured on Gaussian samples of the same number, dimensions and canonical correlations, and goes into
    the standard error.

    Parameters
    ----------
    x, y
        Samples in rows.
    neighbours
        k.
    seed
        Of the partitions and of the calibration.

    Returns
    -------
    Estimate
        Not reliable where the measured bias exceeds a tenth of the value (dimension and dependence are beyond what n
        samples resolve), where rows are copies of each other, or where the samples are too few for an error.

    Raises
    ------
    ValueError
        If there are no more samples than neighbours + 1.

    References
    ----------
    .. [1] Kraskov, Stoegbauer, Grassberger, Phys. Rev. E 69, 066138 (2004), first estimator.
    .. [2] Gao, Kannan, Oh, Viswanath, arXiv 1709.06212 (2017).

    Examples
    --------
    >>> generator = np.random.default_rng(1)
    >>> x, y = generator.standard_normal((2, 1000, 1))
    >>> abs(ksg_estimate(x, y).nats) < 0.1
    True
    """
    n = len(x)
    if n <= neighbours + 1:
        raise ValueError(f"{n} samples are too few for {neighbours} neighbours: take at least {neighbours + 2}")
    codes = [_codes(part) for part in (x, y)]
    if any(code.max() == 0 for code in codes):
        return Estimate(0.0, 0.0, note="one side is constant: it tells nothing")
    if all(code.max() + 1 <= FEW_VALUES * n for code in codes):
        found = plug_in_estimate(*codes)
        return found._replace(note=found.note or "both sides are discrete: estimated from the table of counts")
    a, b = normal_scores(x), normal_scores(y)
    if _copied(*codes):
        note = "many rows occur several times, each x with one y only: copies, or a one-to-one map; cannot tell"
        return Estimate(_mean_terms(a, b, neighbours), math.inf, reliable=False, note=note)
    rho, p, q = canonical_correlations(a, b)
    if n < p + q + 2:  # some combination of columns agrees in every sample, whatever the truth
        note = f"{n} samples are too few for {p} and {q} dimensions: cannot tell; take at least {p + q + 2}"
        return Estimate(_mean_terms(a, b, neighbours), math.inf, reliable=False, note=note)
    if (1.0 - rho**2 < EXACT).any():
        return Estimate(math.inf, 0.0, note="one side determines a part of the other: the information is infinite")
    generator = np.random.default_rng(seed)
    nats = _mean_terms(a, b, neighbours)
    error = partition_error(lambda u, v: _mean_terms(u, v, neighbours), a, b, 4 * neighbours + 4, generator)
    bias, spread, missing = _calibration(rho, p, q, n, neighbours, generator)
    error = max(error, spread) + abs(bias) / 2  # so that two standard errors hold the bias and the spread
    if abs(bias) > LARGEST_BIAS * max(missing, 0.0) and abs(bias) > 0.05:
        note = (
            f"out of reach: on Gaussian samples with these correlations ({missing:.3g} nats) the estimator is off by "
            f"{bias:+.2g}; take more samples or fewer columns"
        )
        return Estimate(nats, math.inf, reliable=False, note=note)
    if math.isinf(error):
        return Estimate(nats, error, reliable=False, note=f"{n} samples are too few for a standard error")
    return Estimate(nats, error)


def _mean_terms(a: Float[np.ndarray, "n p"], b: Float[np.ndarray, "n q"], neighbours: int) -> float:
    n = len(a)
    neighbours = min(neighbours, n - 2)
    joint = np.hstack([a, b])
    tree = cKDTree(joint)
    distance = np.asarray(tree.query(joint, k=neighbours + 1, p=np.inf)[0])[:, -1]
    tied = distance <= 0
    inside = np.where(tied, 0.0, np.nextafter(distance, 0))  # strictly nearer than the k-th neighbour
    counts = [cKDTree(part).query_ball_point(part, inside, p=np.inf, return_length=True) for part in (a, b)]
    near = np.full(n, float(neighbours))
    if tied.any():
        near[tied] = tree.query_ball_point(joint[tied], 0.0, p=np.inf, return_length=True) - 1
    return float((digamma(near) + digamma(n) - digamma(counts[0]) - digamma(counts[1])).mean())


def _calibration(
    rho: Float[np.ndarray, "k"], p: int, q: int, n: int, neighbours: int, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Bias and spread of the estimator on Gaussian pairs with these canonical correlations, and the true value."""
    # The largest sample correlations of independent columns are far from zero: chance is taken out of each.
    shrunk = np.sqrt(np.clip((rho**2 - p * q / n / max(len(rho), 1)) / (1 - p * q / n / max(len(rho), 1)), 0, None))
    truth = float(-0.5 * np.log1p(-(shrunk**2)).sum())
    size = min(n, CALIBRATION_SAMPLES)
    errors = []
    for _ in range(CALIBRATION_DRAWS):
        a, b = generator.standard_normal((size, p)), generator.standard_normal((size, q))
        k = len(shrunk)
        b[:, :k] = shrunk * a[:, :k] + np.sqrt(1 - shrunk**2) * b[:, :k]
        errors.append(_mean_terms(a, b, neighbours) - truth)
    bias, spread = float(np.mean(errors)), float(np.std(errors, ddof=1))
    seen = abs(bias) > 2 * spread / math.sqrt(CALIBRATION_DRAWS)
    return (bias if seen else 0.0), spread * math.sqrt(size / n), truth


def _codes(values: Float[np.ndarray, "n d"]) -> Int[np.ndarray, "n"]:
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _copied(x: Int[np.ndarray, "n"], y: Int[np.ndarray, "n"]) -> bool:
    """True where a tenth of the rows repeat another row though x and y take no common values otherwise."""
    pairs, index, counts = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True, return_counts=True)
    of_x, of_y = np.bincount(x)[pairs[:, 0]], np.bincount(y)[pairs[:, 1]]
    copies = (counts > 1) & (counts == of_x) & (counts == of_y)
    return bool(copies[index.reshape(-1)].mean() > 0.1)
