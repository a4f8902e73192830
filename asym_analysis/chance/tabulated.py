"""Null distributions known by weighted samples: p-values as far down as the samples know them, floored below."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from asym_analysis.chance.null import Number

__all__ = ["LEAST", "TabulatedNull"]

LEAST = 1e-6  # the smallest p-value that is ever given: what weighted samples say of less is not checked
LEVELS = np.concatenate([np.linspace(1, 0.1, 181), np.geomspace(0.1, LEAST, 201)[1:]])
MOST_ERROR = 0.2  # relative standard error of the probabilities that are given
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
    Every p-value is the samples' estimate plus its standard error, so that it errs on the side of chance. The table
    ends where that error exceeds 20 % of the probability, or at one in a million: `least_p`, the smallest p-value that
    is ever given.

    Examples
    --------
    >>> from asym_analysis.chance import BetaNull
    >>> samples = np.random.default_rng(0).beta(4, 20, 2**16)
    >>> null = TabulatedNull.of(samples)
    >>> exact = BetaNull(4 / 24, (4 * 20 / 25) ** 0.5 / 24)
    >>> values = exact.critical_value(np.array([0.5, 1e-2, 1e-3]))
    >>> null.p_value(values).round(4).tolist()
    [0.5062, 0.0113, 0.0011]
    >>> round(null.least_p, 4)
    0.0005
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
        weights: Float[np.ndarray, "n"] | None = None,
        *,
        larger_is_more_similar: bool = True,
        moments: tuple[float, float] | None = None,
        exact: bool = False,
    ) -> TabulatedNull:
        """The distribution of these samples, a thousand or more.

        Parameters
        ----------
        samples : float array of shape (n,)
            Independent values, any order.
        weights : float array of shape (n,), optional
            Of expectation 1: what makes up for values that were drawn more often than they occur. None for equal ones.
        larger_is_more_similar : bool, default True
            Whether the p-value is the probability of a larger value, or of a smaller one.
        moments : tuple of (float, float), optional
            Mean and standard deviation, where they are known exactly; those of the samples by default. The quantiles
            stay where the samples have them.
        exact : bool, default False
            True where the weights are exact probabilities times n, and not those of draws.

        Returns
        -------
        TabulatedNull
            With these moments.
        """
        weights = np.ones(len(samples)) if weights is None else weights
        known = np.isfinite(samples)
        if not known.any():  # the similarity does not exist: nothing is known of its chance either
            return cls(np.nan, np.nan, np.zeros(1), np.zeros(1), larger_is_more_similar)
        samples, weights = samples[known], weights[known]
        count = len(samples)
        sign = 1.0 if larger_is_more_similar else -1.0
        order = np.argsort(-sign * samples)
        values, shares = sign * samples[order], weights[order] / count
        above, squares = np.cumsum(shares), np.cumsum(shares**2)
        # The weights' mean is known to be 1, which improves every sum of them.
        tail = above - (above[-1] - 1) * squares / squares[-1]
        error = np.zeros(count) if exact else np.sqrt(np.maximum(squares - above**2 / count, 0.0))
        if moments is None:
            total = float(above[-1])
            mean = float(values @ shares) / total
            moments = sign * mean, float(np.sqrt((values - mean) ** 2 @ shares / total))
        return cls.of_tail(
            values[::-1], tail[::-1], error[::-1], larger_is_more_similar=larger_is_more_similar, moments=moments
        )

    @classmethod
    def of_tail(
        cls,
        values: Float[np.ndarray, "n"],
        tail: Float[np.ndarray, "n"],
        error: Float[np.ndarray, "n"],
        *,
        larger_is_more_similar: bool = True,
        moments: tuple[float, float],
    ) -> TabulatedNull:
        """The distribution with these probabilities of more.

        Parameters
        ----------
        values : float array of shape (n,)
            Similarities, ascending; the negatives of distances.
        tail, error : float array of shape (n,)
            Probability of a similarity at least as large, and its standard error.
        larger_is_more_similar : bool, default True
            False where the values are the negatives of distances.
        moments : tuple of (float, float)
            Mean and standard deviation of the similarity or distance.

        Returns
        -------
        TabulatedNull
            With these moments.
        """
        uncertain = np.flatnonzero((error > MOST_ERROR * tail) | (tail + error < LEAST))
        last = int(uncertain[0]) if len(uncertain) else len(tail)
        stated = np.minimum((tail + error)[: max(last, 1)], 1.0)
        # From one level to the next; the value that is kept is the first whose probability is below the level.
        places = np.searchsorted(-stated, -LEVELS[stated[-1] <= LEVELS], side="left")
        places = np.unique(np.append(places, [0, len(stated) - 1]).clip(max=len(stated) - 1))
        sign = 1.0 if larger_is_more_similar else -1.0
        steps = (values[places] - sign * moments[0]) / max(moments[1], POINT)
        logs = np.log(np.minimum.accumulate(np.maximum(stated[places], 1e-300)))
        return cls(*moments, np.maximum.accumulate(steps), logs, larger_is_more_similar)

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
        steps = sign * (values - self.mean) / np.maximum(self.std, POINT)
        found = np.exp(np.interp(steps, self.steps, self.log_tail, left=0.0))
        # Around a single value rounding decides nothing; what lies clearly beyond it is as rare as can be told.
        undecided = (np.asarray(self.std) < POINT) & (sign * (values - self.mean) < ROUNDING)
        return np.where(np.isnan(values), np.nan, np.where(undecided, 1.0, found))

    def critical_value(self, level: float) -> float:
        """The value that has this p-value, for one mean and standard deviation.

        Parameters
        ----------
        level : float
            Probability, from `least_p` to 1.

        Returns
        -------
        float
            The value.
        """
        sign = 1.0 if self.larger_is_more_similar else -1.0
        step = np.interp(-np.log(level), -self.log_tail, self.steps)
        return float(self.mean + sign * step * np.maximum(self.std, POINT))

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
