"""Intervals over seeds and rows, equivalence, random effects over tasks, and corrections for many verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

__all__ = ["Difference", "equivalence_p", "holm", "pooled", "seeds_needed"]


@dataclass(frozen=True)
class Difference:
    """A mean difference with its error and degrees of freedom.

    Parameters
    ----------
    mean
        The difference.
    seed_error
        Standard error over seeds, the rows fixed.
    row_error
        Standard error over rows, the seeds fixed; 0 where rows were not kept.
    seeds
        Number of paired seeds (or of tasks, where tasks were pooled).

    Notes
    -----
    Seeds and rows are crossed random effects. Their variances add, which counts the interaction of both twice and is
    therefore a little cautious; the degrees of freedom follow Satterthwaite [1]_, rows counting as many.

    References
    ----------
    .. [1] Satterthwaite (1946), "An approximate distribution of estimates of variance components".

    Examples
    --------
    >>> low, high = Difference(0.1, 0.02, 0.0, 5).interval(0.95)
    >>> round(low, 3), round(high, 3)
    (0.044, 0.156)
    """

    mean: float
    seed_error: float
    row_error: float
    seeds: int

    @property
    def error(self) -> float:
        """The standard error over seeds and rows."""
        return float(np.hypot(self.seed_error, self.row_error))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of Student's t distribution."""
        if self.seeds < 2:
            return float("nan")
        if self.seed_error == 0:
            return 1e6 if self.row_error else float(self.seeds - 1)
        return float((self.error / self.seed_error) ** 4 * (self.seeds - 1))

    def interval(self, confidence: float) -> tuple[float, float]:
        """The two-sided interval; without limits where one seed, or seeds that all differ alike, show no spread."""
        if self.seeds < 2 or self.error == 0:
            return -np.inf, np.inf
        reach = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return self.mean - reach, self.mean + reach

    @property
    def p_value(self) -> float:
        """Of no difference, two-sided; 1 where the seeds show no spread."""
        if self.seeds < 2 or self.error == 0:
            return 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

    def scaled(self, factor: float) -> Difference:
        """The difference in other units."""
        size = abs(factor)
        return Difference(self.mean * factor, self.seed_error * size, self.row_error * size, self.seeds)


def equivalence_p(difference: Difference, margin: float) -> float:
    """The p-value of two one-sided tests that a difference lies beyond a margin on either side.

    Parameters
    ----------
    difference
        The difference.
    margin
        Positive; the difference is equivalent to zero where it lies between -margin and margin.

    Returns
    -------
    float
        The larger of the two one-sided p-values [1]_.

    References
    ----------
    .. [1] Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power approach".

    Examples
    --------
    >>> equivalence_p(Difference(0.0, 0.01, 0.0, 5), 0.1) < 0.001
    True
    """
    if difference.seeds < 2 or difference.error == 0:
        return 1.0
    sides = [(margin - difference.mean) / difference.error, (margin + difference.mean) / difference.error]
    return float(max(stats.t.sf(side, difference.freedom) for side in sides))


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " tests"]:
    """Adjust p-values for being many, so that any false rejection stays as rare as one test's.

    Parameters
    ----------
    p_values
        Of the tests.

    Returns
    -------
    ndarray
        Adjusted p-values in the same order [1]_.

    References
    ----------
    .. [1] Holm (1979), "A simple sequentially rejective multiple test procedure".

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    steps = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def pooled(differences: Sequence[Difference]) -> Difference:
    """Pool the differences of several tasks by random effects.

    Parameters
    ----------
    differences
        One a task, in common units.

    Returns
    -------
    Difference
        The weighted mean. The variance between tasks is DerSimonian and Laird's [1]_, the error that of Hartung and
        Knapp [2]_, but no smaller than without their factor, nor, of three tasks or more, than that of
        the plain mean: weights from three seeds are noise themselves, and up to 10 % of 95 % intervals missed the mean.
        Degrees of freedom are the tasks less one. One task is given back as it is.

    References
    ----------
    .. [1] DerSimonian and Laird (1986), "Meta-analysis in clinical trials".
    .. [2] Hartung and Knapp (2001), "A refined method for the meta-analysis of controlled clinical trials with binary
       outcome".
    """
    if len(differences) == 1:
        return differences[0]
    means = np.array([each.mean for each in differences])
    variances = np.array([each.error**2 for each in differences])
    plain = float(means.std(ddof=1) / np.sqrt(len(means)))
    if not np.isfinite(variances).all() or (variances == 0).any():
        return Difference(float(means.mean()), plain, 0.0, len(means))
    weights = 1 / variances
    fixed = (weights @ means) / weights.sum()
    excess = weights @ (means - fixed) ** 2 - (len(means) - 1)
    between = max(0.0, excess / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    mean = (weights @ means) / weights.sum()
    factor = (weights @ (means - mean) ** 2) / (len(means) - 1)
    error = float(np.sqrt(max(1.0, factor) / weights.sum()))
    return Difference(float(mean), max(error, plain) if len(means) > 2 else error, 0.0, len(means))


def seeds_needed(difference: Difference, margin: float, *, alpha: float = 0.05, most: int = 100) -> int | None:
    """Estimate with how many seeds a difference of this size and spread would be decided.

    Parameters
    ----------
    difference
        Of at least two seeds.
    margin
        Of equivalence.
    alpha
        Level of the tests.
    most
        The largest number that is tried.

    Returns
    -------
    int or None
        The smallest number of seeds at which it is expected to be equivalent, better or worse; None where `most` seeds
        would not do, since rows are too few or the difference lies at the margin.

    Examples
    --------
    >>> seeds_needed(Difference(0.05, 0.04, 0.0, 3), 0.1)
    8
    """
    if difference.seeds < 2:
        return None
    spread = difference.seed_error * np.sqrt(difference.seeds)
    for seeds in range(3, most + 1):
        found = Difference(difference.mean, spread / np.sqrt(seeds), difference.row_error, seeds)
        if found.p_value < alpha or equivalence_p(found, margin) < alpha:
            return seeds
    return None
