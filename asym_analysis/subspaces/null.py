"""How similar independent random subspaces are: moments, tails and samples of every measure under chance.

The overlap of two independent, uniformly distributed subspaces of dimensions p and q in R^d has exact moments (theory
notes, section 4.2). Its tail is that of a Beta distribution with the same two moments: exact for p = q = 1, and within
a few per cent of the simulated 99% point elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.interpolate import CubicSpline

MANY = 1000  # values, from which interpolation pays
SMOOTH = 150.0  # least second parameter for which the logarithm of the tail is smooth down to where it vanishes
LEAST_TAIL = 1e-290
Number = float | Float[np.ndarray, "n"]

__all__ = [
    "BetaNull",
    "Null",
    "ProductNull",
    "SampledNull",
    "StrengthNull",
    "overlap_null",
    "product_null",
    "strength_null",
    "trace_null",
]


@runtime_checkable
class Null(Protocol):
    """What chance alone gives: a mean, a standard deviation, and p-values. Means may differ from value to value."""

    @property
    def mean(self) -> Number:
        """Mean value."""
        ...

    @property
    def std(self) -> Number:
        """Standard deviation."""
        ...

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as similar, under chance."""
        ...

    def critical_value(self, level: float) -> Number:
        """The value that chance exceeds in similarity with probability `level`."""
        ...


@dataclass(frozen=True)
class BetaNull:
    """A Beta distribution on [low, high] with the given mean and standard deviation, or one for each value.

    Examples
    --------
    >>> null = BetaNull(mean=0.5, std=12**-0.5)
    >>> null.p_value(np.array([0.25, 0.9])).round(6).tolist()
    [0.75, 0.1]
    """

    mean: Number
    std: Number
    low: float = 0.0
    high: float = 1.0

    @property
    def shape(self) -> tuple[Number, Number]:
        """The two parameters, alpha and beta, that match the mean and the standard deviation."""
        width = max(self.high - self.low, 1e-150)  # a law without spread is a point, its support too
        center = (self.mean - self.low) / width
        spread = np.maximum(self.std / width, 1e-150)
        total = np.maximum(center * (1 - center) / spread**2 - 1, 1e-12)
        return center * total, (1 - center) * total

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as large; 1 where the null is a single point."""
        alpha, beta = self.shape
        tail = _beta_tail(alpha, beta, np.clip((values - self.low) / max(self.high - self.low, 1e-150), 0, 1))
        return np.where(np.asarray(self.std) > 0, tail, np.where(np.isnan(values), np.nan, 1.0))

    def critical_value(self, level: float) -> Number:
        """The value that chance exceeds with probability `level`."""
        alpha, beta = self.shape
        quantile = self.low + (self.high - self.low) * special.betainccinv(alpha, beta, level)
        found = np.where(np.asarray(self.std) > 0, quantile, self.mean)
        return float(found) if found.ndim == 0 else found


def _beta_tail(alpha: Number, beta: Number, x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Probability that a Beta variable exceeds x: of many values in a space of many dimensions, by interpolation.

    The incomplete Beta function costs microseconds a value, more than all else in a table. The spline is within 1e-5 of
    it, relatively; tails below 1e-290 are 0.
    """
    if np.ndim(alpha) or x.size <= MANY or beta < SMOOTH:
        return special.betaincc(alpha, beta, x)
    end, spline = _tail_spline(float(alpha), float(beta))
    place = np.sqrt(x)
    return np.where(place > end, 0.0, np.exp(spline(place)))


@lru_cache(maxsize=256)
def _tail_spline(alpha: float, beta: float) -> tuple[float, CubicSpline]:
    """The logarithm of the tail as a spline of sqrt(x), smooth at 0 even for alpha = 1/2, and where it ends."""
    end = float(np.sqrt(special.betainccinv(alpha, beta, LEAST_TAIL)))
    nodes = np.linspace(0.0, end, 4097)
    return end, CubicSpline(nodes, np.log(special.betaincc(alpha, beta, nodes**2)))


def overlap_null(p: int, q: int, d: int) -> BetaNull:
    """The overlap, T / min(p, q) with T the sum of squared cosines, between random subspaces of R^d.

    E T = pq/d and Var T = 2pq(d-p)(d-q) / (d^2 (d-1)(d+2)), exactly; the support starts at p + q - d where the two
    subspaces must meet (theory notes, section 4.2).

    Raises
    ------
    ValueError
        If p or q is not between 1 and d.

    Examples
    --------
    >>> null = overlap_null(8, 8, 1024)
    >>> round(null.mean, 7), round(null.std, 6)
    (0.0078125, 0.00137)
    """
    if not (1 <= p <= d and 1 <= q <= d):
        raise ValueError(f"subspaces of dimensions {p} and {q} do not exist in R^{d}: both must be from 1 to {d}")
    least = min(p, q)
    variance = 2.0 * p * q * (d - p) * (d - q) / (d**2 * (d - 1) * (d + 2)) if d > 1 else 0.0
    return BetaNull(mean=p * q / (d * least), std=variance**0.5 / least, low=max(0, p + q - d) / least)


@dataclass(frozen=True)
class StrengthNull:
    """The law of Tr(C C') / (||C||_F ||C'||_F) in independent random directions, C and C' keeping their eigenvalues.

    Mean and standard deviation are exact. The tail is that of a shifted gamma variable with the skewness of the
    weighted sum of squares to which the value tends as d grows (Pearson's type III).
    """

    mean: Number
    std: Number
    skewness: Number

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as large."""
        shape = 4 / np.asarray(self.skewness) ** 2
        steps = shape + (values - self.mean) / np.maximum(self.std, 1e-150) * np.sqrt(shape)
        return np.where(np.isnan(values), np.nan, special.gammaincc(shape, np.maximum(np.nan_to_num(steps), 0.0)))

    def critical_value(self, level: float) -> Number:
        """The value that chance exceeds with probability `level`."""
        shape = 4 / np.asarray(self.skewness) ** 2
        return self.mean + self.std * (special.gammainccinv(shape, level) - shape) / np.sqrt(shape)


def strength_null(spread: Float[np.ndarray, "n 2"], other: Float[np.ndarray, "n 2"], d: int) -> StrengthNull:
    """The law for n pairs of operators of norm 1 on R^d, given by their spreads (Tr C, Tr C^3).

    With x = Tr C and x' = Tr C': mean x x' / d, variance 2 (1 - x^2/d) (1 - x'^2/d) / ((d-1)(d+2)). Equal eigenvalues
    of rank p have x^2 = p, and give back the moments of the overlap (theory notes, sections 1.2(e) and 4.2). The
    skewness sqrt(8) Tr C^3 Tr C'^3 of large d is scaled to be exact for rank 1.

    Examples
    --------
    >>> equal = np.array([[8 * 8**-0.5, 8 * 8**-1.5]])
    >>> law = strength_null(equal, equal, 1024)
    >>> law.mean.round(7).tolist(), law.std.round(6).tolist()
    ([0.0078125], [0.00137])
    """
    x, y = spread[:, 0], other[:, 0]
    loss = np.clip(1 - x**2 / d, 0.0, None) * np.clip(1 - y**2 / d, 0.0, None)
    std = np.sqrt(2 * loss / (max(d - 1, 1) * (d + 2)))
    # Of Beta(1/2, (d-1)/2), the law for rank 1, and of its limit.
    exact = 2 * (d / 2 - 1) * np.sqrt(d / 2 + 1) / ((d / 2 + 2) * np.sqrt((d - 1) / 4)) if d > 2 else 1e-6
    return StrengthNull(x * y / d, std, np.maximum(exact * spread[:, 1] * other[:, 1], 1e-6))


def trace_null(p: int, q: int, d: int) -> BetaNull:
    """The law of Tr(C C') / (||C||_F ||C'||_F) where the p and the q eigenvalues that are not zero are equal.

    Examples
    --------
    >>> trace_null(8, 8, 1024) == overlap_null(8, 8, 1024)
    True
    """
    law = overlap_null(p, q, d)
    ratio = min(p, q) / (p * q) ** 0.5
    return BetaNull(mean=law.mean * ratio, std=law.std * ratio, low=law.low * ratio, high=ratio)


@dataclass(frozen=True)
class SampledNull:
    """A law known by its samples: p-values are no smaller than 1/(number of samples + 1)."""

    mean: float
    std: float
    ordered: Float[np.ndarray, "n"]
    larger_is_more_similar: bool

    @classmethod
    def of(cls, samples: Float[np.ndarray, "n"], larger_is_more_similar: bool) -> SampledNull:
        """The law of these samples."""
        return cls(float(samples.mean()), float(samples.std()), np.sort(samples), larger_is_more_similar)

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """(1 + samples at least as similar) / (1 + samples)."""
        if self.larger_is_more_similar:
            beyond = len(self.ordered) - np.searchsorted(self.ordered, values, side="left")
        else:
            beyond = np.searchsorted(self.ordered, values, side="right")
        return np.where(np.isnan(values), np.nan, (1.0 + beyond) / (1.0 + len(self.ordered)))

    def critical_value(self, level: float) -> float:
        """The quantile of the samples that is exceeded in similarity with probability `level`."""
        return float(np.quantile(self.ordered, 1 - level if self.larger_is_more_similar else level))


@dataclass(frozen=True)
class ProductNull:
    """The law of the cosine of two updates in independent random directions: mean 0, variance 1/(d_in d_out), exactly.

    sqrt(d_in d_out) times the cosine of updates of equal singular values, ranks p and q, tends to a sum of p q products
    of independent normal variables over sqrt(p q): a normal variable whose variance is chi-squared with p q degrees of
    freedom over p q. At rank 1 its tails are far longer than a normal variable's.

    Examples
    --------
    >>> null = ProductNull(std=0.01, terms=64)
    >>> float(null.p_value(np.array([0.0]))[0]), bool(null.p_value(np.array([0.03]))[0] > 0.00135)
    (0.5, True)
    """

    std: float
    terms: int
    mean: float = 0.0

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a cosine at least as large."""
        # Gauss-Legendre nodes over the quantiles of the variance.
        nodes, weights = np.polynomial.legendre.leggauss(64)
        spread = np.sqrt(special.chdtri(self.terms, (1 - nodes) / 2) / self.terms) * self.std
        return (weights / 2 * special.ndtr(-values[..., None] / spread)).sum(-1)

    def critical_value(self, level: float) -> float:
        """The cosine that chance exceeds with probability `level`."""
        from scipy.optimize import brentq

        return float(brentq(lambda value: self.p_value(np.array([value]))[0] - level, -60 * self.std, 60 * self.std))


def product_null(p: int, q: int, d: int) -> ProductNull:
    """The law of the cosine of updates of ranks p and q with d = d_in d_out entries."""
    return ProductNull(std=d**-0.5, terms=p * q)
