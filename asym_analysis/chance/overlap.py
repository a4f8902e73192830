"""How similar independent random subspaces and updates are: exact moments, and tails that match them.

The overlap of two independent, uniformly distributed subspaces of dimensions p and q in R^d has exact moments. Its tail
is that of a Beta distribution with the same two moments: exact for p = q = 1, and within a few per cent of the
simulated 99% point elsewhere (docs/theory.md, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import special
from scipy.optimize import brentq

from asym_analysis.chance.haar import captured_energy_moments, rotated_trace_moments
from asym_analysis.chance.null import BetaNull, Number

__all__ = [
    "ProductNull",
    "StrengthNull",
    "overlap_null",
    "product_null",
    "strength_null",
    "trace_null",
]


def overlap_null(p: int, q: int, d: int) -> BetaNull:
    """The overlap, T / min(p, q) with T the sum of squared cosines, between random subspaces of R^d.

    Parameters
    ----------
    p, q
        Dimensions of the two subspaces.
    d
        Dimension of the space.

    Returns
    -------
    BetaNull
        With the exact moments E T = pq/d and Var T = 2pq(d-p)(d-q) / (d^2 (d-1)(d+2)); its support starts at p + q - d
        where the two subspaces must meet.

    Raises
    ------
    ValueError
        If p or q is not between 1 and d.

    References
    ----------
    docs/theory.md, section 4.2.

    Examples
    --------
    >>> null = overlap_null(8, 8, 1024)
    >>> round(null.mean, 7), round(null.std, 6)
    (0.0078125, 0.00137)
    """
    if not (1 <= p <= d and 1 <= q <= d):
        raise ValueError(f"subspaces of dimensions {p} and {q} do not exist in R^{d}: both must be from 1 to {d}")
    least = min(p, q)
    # T is the energy that a random subspace of dimension p captures of the projector onto the other.
    mean, variance = captured_energy_moments(float(q), float(q), d, p)
    return BetaNull(mean=mean / least, std=variance**0.5 / least, low=max(0, p + q - d) / least)


@dataclass(frozen=True)
class StrengthNull:
    """The null distribution of Tr(C C') / (||C||_F ||C'||_F) in random directions, C and C' keeping their eigenvalues.

    Mean and standard deviation are exact. The tail is that of a shifted gamma variable with the skewness of the
    weighted sum of squares to which the value tends as d grows (Pearson's type III).

    Attributes
    ----------
    mean, std, skewness
        Numbers, or arrays of shape (n,).
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
    """The null distribution for n pairs of operators of norm 1 on R^d.

    Parameters
    ----------
    spread, other
        (Tr C, Tr C^3) of the two operators of each pair, each scaled to Tr C^2 = 1, shape (n, 2).
    d
        Dimension of the space.

    Returns
    -------
    StrengthNull
        With x = Tr C and x' = Tr C': mean x x' / d, variance 2 (1 - x^2/d) (1 - x'^2/d) / ((d-1)(d+2)). Equal
        eigenvalues of rank p have x^2 = p, and give back the moments of the overlap. The skewness sqrt(8) Tr C^3 Tr
        C'^3 of large d is scaled to be exact for rank 1.

    References
    ----------
    docs/theory.md, sections 1.2 (e) and 4.2.

    Examples
    --------
    >>> equal = np.array([[8 * 8**-0.5, 8 * 8**-1.5]])
    >>> law = strength_null(equal, equal, 1024)
    >>> law.mean.round(7).tolist(), law.std.round(6).tolist()
    ([0.0078125], [0.00137])
    """
    mean, variance = rotated_trace_moments(spread[:, 0], np.ones(len(spread)), other[:, 0], np.ones(len(other)), d)
    # Of Beta(1/2, (d-1)/2), the distribution for rank 1, and of its limit.
    exact = 2 * (d / 2 - 1) * np.sqrt(d / 2 + 1) / ((d / 2 + 2) * np.sqrt((d - 1) / 4)) if d > 2 else 1e-6
    return StrengthNull(mean, np.sqrt(variance), np.maximum(exact * spread[:, 1] * other[:, 1], 1e-6))


def trace_null(p: int, q: int, d: int) -> BetaNull:
    """The null distribution of Tr(C C') / (||C||_F ||C'||_F) where the p and the q non-zero eigenvalues are equal.

    Parameters
    ----------
    p, q, d
        Ranks of C and C', and the dimension of the space.

    Returns
    -------
    BetaNull
        `overlap_null`, rescaled.

    Examples
    --------
    >>> trace_null(8, 8, 1024) == overlap_null(8, 8, 1024)
    True
    """
    law = overlap_null(p, q, d)
    ratio = min(p, q) / (p * q) ** 0.5
    return BetaNull(mean=law.mean * ratio, std=law.std * ratio, low=law.low * ratio, high=ratio)


@dataclass(frozen=True)
class ProductNull:
    """The null distribution of the cosine of two updates in independent random directions.

    Its mean is 0 and its variance 1/(d_in d_out), exactly. sqrt(d_in d_out) times the cosine of updates of equal
    singular values, ranks p and q, tends to a sum of p q products of independent normal variables over sqrt(p q): a
    normal variable whose variance is chi-squared with p q degrees of freedom over p q. At rank 1 its tails are far
    longer than a normal variable's.

    Attributes
    ----------
    std
        Standard deviation, (d_in d_out)^(-1/2).
    terms
        p q.

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
        spreads, weights = _normal_mixture(self.terms)
        return (weights * special.ndtr(-values[..., None] / (spreads * self.std))).sum(-1)

    def critical_value(self, level: float) -> float:
        """The cosine that chance exceeds with probability `level`."""
        return _unit_critical_value(self.terms, level) * self.std


@lru_cache(maxsize=4096)
def _normal_mixture(terms: int) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"]]:
    """Standard deviations and weights of the normal variables: Gauss-Legendre nodes over the variance's quantiles."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return np.sqrt(special.chdtri(terms, (1 - nodes) / 2) / terms), weights / 2


@lru_cache(maxsize=4096)
def _unit_critical_value(terms: int, level: float) -> float:
    unit = ProductNull(1.0, terms)
    return float(brentq(lambda value: unit.p_value(np.array([value]))[0] - level, -60.0, 60.0, xtol=1e-14))


def product_null(p: int, q: int, d: int) -> ProductNull:
    """The null distribution of the cosine of updates of ranks p and q with d = d_in d_out entries.

    Parameters
    ----------
    p, q, d
        Ranks, and the number of entries of the dense update.

    Returns
    -------
    ProductNull
        See there.

    Examples
    --------
    >>> product_null(1, 1, 400).std
    0.05
    """
    return ProductNull(std=d**-0.5, terms=p * q)
