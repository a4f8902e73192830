"""Null distributions known by samples: p-values from their quantiles, and from a fitted tail beyond them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from asym_analysis.chance.null import BetaNull, Number
from asym_analysis.chance.overlap import ProductNull, StrengthNull

__all__ = ["TabulatedNull"]

Tail = BetaNull | ProductNull | StrengthNull

JOIN = 0.01  # the fitted tail takes over at this probability
FITTED = 0.05  # share of the samples that the tail is fitted to
BEYOND = 10  # the fitted tail ends at a probability of 1 / (BEYOND times the number of samples)
ROUNDING = 1e-6  # of a value computed in float32, beyond which it differs from a single null value
POINT = 1e-7  # a standard deviation below this is rounding of a single value


@dataclass(frozen=True)
class TabulatedNull:
    """A distribution of which the logarithm of the p-value is tabulated against the standardized value.

    Attributes
    ----------
    mean, std
        Numbers, or arrays of shape (n,) with one entry for each value.
    steps, log_tail
        Standardized similarities, ascending, and the logarithm of the probability of more.
    larger_is_more_similar
        False for distances.

    Notes
    -----
    Beyond the largest hundredth of the samples, the logarithm of the tail is b times that of a reference distribution
    with the samples' mean and standard deviation. The factor b, about 1, is fitted to the largest twentieth of the
    samples (the estimator of Hill 1975). The tail ends at a tenth of one over the number of samples: `least_p`, the
    smallest p-value that is ever given.

    Examples
    --------
    >>> samples = np.random.default_rng(0).beta(4, 20, 32768)
    >>> null = TabulatedNull.of(samples)
    >>> exact = BetaNull(4 / 24, (4 * 20 / 25) ** 0.5 / 24)
    >>> values = exact.critical_value(np.array([0.5, 1e-2, 1e-4]))
    >>> null.p_value(values).round(5).tolist()
    [0.50309, 0.01103, 0.00014]
    >>> null.least_p < 4e-6
    True
    """

    mean: Number
    std: Number
    steps: Float[np.ndarray, "k"]
    log_tail: Float[np.ndarray, "k"]
    larger_is_more_similar: bool = True

    @classmethod
    def of(
        cls,
        samples: Float[np.ndarray, "n"],
        low: float = 0.0,
        high: float = 1.0,
        *,
        larger_is_more_similar: bool = True,
        reference: Tail | None = None,
        moments: tuple[float, float] | None = None,
    ) -> TabulatedNull:
        """The distribution of these samples, a thousand or more.

        Parameters
        ----------
        samples : float array of shape (n,)
            Independent values, any order.
        low, high : float, optional
            The range of possible values.
        larger_is_more_similar : bool, default True
            Whether the p-value is the probability of a larger value, or of a smaller one.
        reference : null distribution, optional
            Distribution whose tail has the right form; the Beta distribution on [low, high] by default.
        moments : tuple of (float, float), optional
            Mean and standard deviation, where they are known exactly; those of the samples by default. The quantiles
            stay where the samples have them.

        Returns
        -------
        TabulatedNull
            With these moments.
        """
        mean, std = float(samples.mean()), float(samples.std())
        count = len(samples)
        sign = 1.0 if larger_is_more_similar else -1.0
        ordered = np.sort(sign * samples)
        if reference is None:
            reference = BetaNull(sign * mean, max(std, POINT), *sorted((sign * low, sign * high)))
        body = np.concatenate([np.linspace(1, 0.1, 181), np.geomspace(0.1, JOIN, 80)[1:]])
        values = np.quantile(ordered, 1 - body)
        tail = np.geomspace(JOIN, 1 / (BEYOND * count), 61)
        if std > POINT:
            reach = _tail_values(ordered, tail, reference)
            values = np.concatenate([values, values[-1] + np.maximum(reach[1:] - reach[0], 0.0)])
        else:
            values = np.concatenate([values, np.full(len(tail) - 1, values[-1])])
        center, width = (mean, std) if moments is None else moments
        steps = (values - sign * center) / max(width, POINT)
        return cls(
            center,
            width,
            np.maximum.accumulate(steps),
            np.log(np.concatenate([body, tail[1:]])),
            larger_is_more_similar,
        )

    @property
    def least_p(self) -> float:
        """The smallest p-value that this distribution can give; p-values below are not known, and floored at it."""
        return float(np.exp(self.log_tail[-1]))

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as similar, from `least_p` to 1; 1 where the distribution is one point.

        Returns
        -------
        array of float64, shape (n,)
            One p-value for each value.
        """
        sign = 1.0 if self.larger_is_more_similar else -1.0
        found = np.exp(np.interp(sign * (values - self.mean) / np.maximum(self.std, POINT), self.steps, self.log_tail))
        # Around a single value rounding decides nothing; what lies clearly beyond it is as rare as can be told.
        undecided = (np.asarray(self.std) < POINT) & (sign * (values - self.mean) < ROUNDING)
        return np.where(np.isnan(values), np.nan, np.where(undecided, 1.0, found))

    def moved(self, mean: Number, std: Number) -> TabulatedNull:
        """The same shape with another mean and standard deviation, or one of each for every value.

        Parameters
        ----------
        mean, std : float or array of shape (n,)
            Numbers, or arrays of shape (n,).

        Returns
        -------
        TabulatedNull
            Sharing the table.
        """
        return replace(self, mean=mean, std=std)


def _tail_values(
    ordered: Float[np.ndarray, "n"], tail: Float[np.ndarray, "k"], reference: Tail
) -> Float[np.ndarray, "k"]:
    """Values that are exceeded with the given probabilities."""
    largest = int(len(ordered) * FITTED)
    threshold, beyond = ordered[-largest - 1], ordered[-largest:]

    def depth(values: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(reference.p_value(values), 1e-290))

    start = float(depth(np.array([threshold]))[0])
    steepness = largest / max(float((depth(beyond) - start).sum()), 1e-12)
    wanted = start + np.log(FITTED / tail) / steepness
    # The reference is tabulated as far as it is needed, and its table inverted.
    reach = max(float(beyond[-1] - threshold), POINT)
    while depth(np.array([threshold + reach]))[0] < wanted[-1] and reach < 1e6:
        reach *= 1.5
    if isinstance(reference, BetaNull):
        reach = min(reach, reference.high - threshold)
    # Fine at the end: a bounded distribution drops there within a small part of its range.
    grid = threshold + reach * np.union1d(np.linspace(0, 1, 1001), 1 - np.geomspace(1e-12, 1, 500))
    return np.interp(wanted, np.maximum.accumulate(depth(grid)), grid)
