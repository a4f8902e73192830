"""Null distributions: what chance alone gives for a similarity, as a mean, a standard deviation and p-values."""

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
POINT = 1e-9  # a standard deviation below this, relative to the support, is that of a single point
Number = float | Float[np.ndarray, "n"]

__all__ = ["BetaNull", "Null", "Number", "probability_of_more", "quantiles"]


@runtime_checkable
class Null(Protocol):
    """A null distribution. Its moments may differ from value to value."""

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


@dataclass(frozen=True)
class BetaNull:
    """A Beta distribution on [low, high] with a given mean and standard deviation.

    Attributes
    ----------
    mean, std
        Numbers, or arrays of shape (n,) with one entry for each value.
    low, high
        Ends of the support.

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
        width = max(self.high - self.low, 1e-150)  # a distribution without spread is a point, its support too
        center = (self.mean - self.low) / width
        spread = np.maximum(self.std / width, 1e-150)
        total = np.maximum(center * (1 - center) / spread**2 - 1, 1e-12)
        return center * total, (1 - center) * total

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as large; 1 where the distribution is a single point.

        Parameters
        ----------
        values : float array of shape (n,)
            Shape (n,).

        Returns
        -------
        array
            Shape (n,); NaN where the value is.
        """
        alpha, beta = self.shape
        tail = _beta_tail(alpha, beta, np.clip((values - self.low) / max(self.high - self.low, 1e-150), 0, 1))
        return np.where(np.asarray(self.std) > 0, tail, np.where(np.isnan(values), np.nan, 1.0))

    def critical_value(self, level: Number) -> Number:
        """The value that chance exceeds with probability `level`.

        Parameters
        ----------
        level : float or array of shape (n,)
            Probability, between 0 and 1.

        Returns
        -------
        float or array
            One value, or one for each entry of the moments.
        """
        alpha, beta = self.shape
        quantile = self.low + (self.high - self.low) * special.betainccinv(alpha, beta, level)
        found = np.where(np.asarray(self.std) > 0, quantile, self.mean)
        return float(found) if found.ndim == 0 else found


def probability_of_more(first: BetaNull, second: BetaNull) -> float:
    """Probability that one of two independent Beta variables exceeds the other; a tie counts one half.

    Parameters
    ----------
    first, second : BetaNull
        Their distributions, with scalar moments. One whose standard deviation is below 1e-9 of its support is a point.

    Returns
    -------
    float
        P[X > Y] + P[X = Y] / 2, within 1e-3: the mean over 2,000 quantiles of X.

    Examples
    --------
    >>> certain = probability_of_more(BetaNull(0.6, 0.0), BetaNull(0.2, 0.0))
    >>> certain, probability_of_more(BetaNull(0.5, 0.1), BetaNull(0.5, 0.1))
    (1.0, 0.5)
    """
    values = quantiles(first, 2000)
    if _is_point(second):
        # Both may be certain: equality up to rounding is a tie.
        centre = float(second.mean)
        return float(np.where(np.abs(values - centre) <= 1e-10, 0.5, values > centre).mean())
    return float(1 - second.p_value(values).mean())


def quantiles(null: BetaNull, count: int) -> Float[np.ndarray, "n"]:
    """Values that cut a Beta distribution into parts of equal probability, and lie in their midst.

    Parameters
    ----------
    null : BetaNull
        With scalar moments.
    count : int
        How many.

    Returns
    -------
    array
        Descending; its mean alone where all of the distribution is at one point.

    Examples
    --------
    >>> quantiles(BetaNull(0.5, 12**-0.5), 2).round(6).tolist()
    [0.75, 0.25]
    """
    if _is_point(null):
        return np.full(1, float(null.mean))
    return np.atleast_1d(null.critical_value((np.arange(count) + 0.5) / count))


def _is_point(null: BetaNull) -> bool:
    """Whether no Beta distribution of positive spread has these moments."""
    width = null.high - null.low
    if width <= 0 or float(null.std) < POINT * width:
        return True
    center = float(null.mean - null.low) / width
    return not 0 < center < 1 or center * (1 - center) <= (float(null.std) / width) ** 2


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
