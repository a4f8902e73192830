"""How similar independent random subspaces are: moments, tails and samples of every measure under chance.

The overlap of two independent, uniformly distributed subspaces of dimensions p and q in R^d has exact moments (theory
notes, section 4.2). Its tail is that of a Beta distribution with the same two moments: exact for p = q = 1, and within
a few per cent of the simulated 99% point elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import special

__all__ = ["BetaNull", "Null", "overlap_null"]


@runtime_checkable
class Null(Protocol):
    """What chance alone gives: a mean, a standard deviation, and a p-value for values as large as observed."""

    @property
    def mean(self) -> float:
        """Mean value."""
        ...

    @property
    def std(self) -> float:
        """Standard deviation."""
        ...

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as similar, under chance."""
        ...

    def critical_value(self, level: float) -> float:
        """The value that chance exceeds in similarity with probability `level`."""
        ...


@dataclass(frozen=True)
class BetaNull:
    """A Beta distribution on [low, high] with the given mean and standard deviation.

    Examples
    --------
    >>> null = BetaNull(mean=0.5, std=12**-0.5)
    >>> null.p_value(np.array([0.25, 0.9])).round(6).tolist()
    [0.75, 0.1]
    """

    mean: float
    std: float
    low: float = 0.0
    high: float = 1.0

    @property
    def shape(self) -> tuple[float, float]:
        """The two parameters, alpha and beta, that match the mean and the standard deviation."""
        center = (self.mean - self.low) / (self.high - self.low)
        total = center * (1 - center) / (self.std / (self.high - self.low)) ** 2 - 1
        return center * total, (1 - center) * total

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as large; 1 where the null is a single point."""
        if self.std == 0:
            return np.where(np.isnan(values), np.nan, 1.0)
        alpha, beta = self.shape
        return special.betaincc(alpha, beta, np.clip((values - self.low) / (self.high - self.low), 0.0, 1.0))

    def critical_value(self, level: float) -> float:
        """The value that chance exceeds with probability `level`."""
        if self.std == 0:
            return self.mean
        alpha, beta = self.shape
        return self.low + (self.high - self.low) * float(special.betainccinv(alpha, beta, level))


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
