"""Same against different: whether adapters of one task (seed, initialization, rank, ...) are more alike than others.

Pairs are not independent, for each adapter stands in many of them. Intervals therefore leave out adapters, and p-values
permute the labels of adapters, never of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import stats

from asym_analysis.alignment.label_deals import all_deals, distinct_deals, random_deals
from asym_analysis.results import TableResult
from asym_analysis.vocabulary import choose, finite, whole

__all__ = ["CORRECTIONS", "Contrast", "Correction", "contrast_pairs", "is_listed"]

Correction = Literal["max-t", "bh"]
CORRECTIONS: tuple[Correction, ...] = ("max-t", "bh")
LISTED = 100_000  # deals of labels that are gone through to list all groupings
CHUNK_ENTRIES = 2**23  # of the weights of several deals at once: 64 MB
Pairs = tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]


@dataclass(frozen=True, eq=False, repr=False)
class Contrast(TableResult):
    """Mean similarity of same and different pairs.

    Attributes
    ----------
    frame
        One row a factor and module, and one a factor for the mean over all modules, called "all". Columns:

        - factor, module
        - same, different: means over pairs
        - difference: of the two
        - low, high: its confidence interval, by leaving out one adapter at a time; missing where leaving one out leaves
          no pair of a kind, or never changes the difference
        - p_value: of permuted labels, two-sided; exact where all groupings can be listed
        - p_adjusted: corrected over the modules of all factors; that of "all", over the factors
        - least_p: the smallest p-value that this design can give: .1 for three adapters against three, .333 for two
          against two
    settings
        What was contrasted, with counts, seed and versions; "exact" says whether all groupings were listed.
    """

    def summary(self) -> pd.DataFrame:
        """The rows of the mean over all modules.

        Returns
        -------
        DataFrame
            Columns as in `frame`.
        """
        return self.frame[self.frame["module"] == "all"].reset_index(drop=True)


def contrast_pairs(
    values: Float[np.ndarray, "rows pairs"],
    pairs: Pairs,
    labels: Int[np.ndarray, "adapters"],
    *,
    strata: Int[np.ndarray, "adapters"] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    correction: Correction = "max-t",
    seed: int = 0,
) -> pd.DataFrame:
    """Contrast pairs of one label with pairs of two, row by row.

    Parameters
    ----------
    values
        One row a module, one column a pair; NaN where there is no value.
    pairs
        Indices i < j of the adapters of each pair.
    labels
        One an adapter; -1 leaves the adapter out.
    strata
        Labels are permuted within these only.
    resamples
        Number of random permutations, where there are more groupings than this; all are listed where there are not.
    confidence
        Of the intervals, between 0 and 1.
    correction
        "max-t": family-wise, by the largest standardized difference of each permutation (Westfall and Young 1993);
        "bh": false discovery rate (Benjamini and Hochberg 1995).
    seed
        Of the random permutations.

    Returns
    -------
    DataFrame
        same, different, difference, low, high, p_value, p_adjusted, least_p, in the order of the rows; see `Contrast`.

    Raises
    ------
    ValueError
        If no pair, or every pair, has the same label, there are fewer than three adapters, a value is infinite, or an
        argument is out of range.

    Notes
    -----
    The interval is difference +- t s, with s^2 = (n - 1) / n sum_i (D_(i) - mean D_(i))^2, where D_(i) is the
    difference without adapter i (the jackknife, Tukey 1958), and t the quantile of Student's distribution with as many
    degrees of freedom as there are adapters less labels. By simulation it covers 90 to 100 %, from two against two up
    (benchmarks/results/contrast_coverage.csv); it is several times too wide where each adapter adds its own constant
    to all of its pairs in a balanced design. Leaving out adapters within labels, or drawing them with replacement,
    covers less: 8 to 93 % for pairs of adapters.

    Examples
    --------
    >>> pairs = np.triu_indices(6, 1)
    >>> labels = np.array([0, 0, 0, 1, 1, 1])
    >>> values = np.where(labels[pairs[0]] == labels[pairs[1]], 0.8, 0.1)[None]
    >>> contrast_pairs(values, pairs, labels)[["difference", "p_value", "least_p"]].round(3).values.tolist()
    [[0.7, 0.1, 0.1]]
    """
    resamples = whole(resamples, "resamples", least=1)
    finite(confidence, "confidence", above=0, below=1)
    choose(correction, CORRECTIONS, "correction")
    known = labels >= 0
    same, usable = _agreement(labels, pairs)
    if known.sum() < 3 or not (same & usable).any() or not (~same & usable).any():
        raise ValueError(
            f"nothing to contrast: {int((same & usable).sum())} pairs agree and {int((~same & usable).sum())} differ "
            f"among {int(known.sum())} labelled adapters; both kinds are needed"
        )
    if np.isinf(values).any():
        raise ValueError(
            f"{int(np.isinf(values).sum())} values are infinite, so that means do not exist: choose a bounded measure"
        )
    means = _Means(values)
    of_same, of_different = (means(mask[None].astype(float))[:, 0] for mask in (same & usable, ~same & usable))
    difference = of_same - of_different
    low, high = _interval(means, pairs, labels, difference, confidence)
    strata = np.zeros(len(labels), dtype=int) if strata is None else strata
    listed, permuted = _permuted(means, pairs, labels, strata, resamples, np.random.default_rng(seed))
    rounding = np.finfo(np.float32).eps * np.abs(means.filled).max(1)
    p_value, p_adjusted = _p_values(difference, permuted, correction, listed, rounding)
    _, groupings = distinct_deals(labels, strata)
    return pd.DataFrame(
        {
            "same": of_same,
            "different": of_different,
            "difference": difference,
            "low": low,
            "high": high,
            "p_value": p_value,
            "p_adjusted": p_adjusted,
            "least_p": np.where(np.isnan(p_value), np.nan, 1 / groupings if listed else 1 / (1 + resamples)),
        }
    )


def is_listed(labels: Int[np.ndarray, "adapters"], strata: Int[np.ndarray, "adapters"], resamples: int) -> bool:
    """Whether all groupings are listed rather than drawn: there are at most `resamples`, and few enough deals.

    Parameters
    ----------
    labels, strata, resamples
        As for `contrast_pairs`.

    Returns
    -------
    bool
        True where p-values are exact.

    Examples
    --------
    >>> is_listed(np.repeat([0, 1], 3), np.zeros(6, dtype=int), 2000)
    True
    """
    deals, groupings = distinct_deals(labels, strata)
    return groupings <= resamples and deals <= LISTED


class _Means:
    """Weighted means of every row over pairs, missing values left out, for many sets of weights at once."""

    def __init__(self, values: Float[np.ndarray, "rows pairs"]) -> None:
        known = np.isfinite(values)
        self.filled = np.where(known, values, 0.0)
        self.known = None if known.all() else known.astype(float)

    def __call__(self, weights: Float[np.ndarray, "sets pairs"]) -> Float[np.ndarray, "rows sets"]:
        total = weights.sum(1)[None] if self.known is None else self.known @ weights.T
        sums = self.filled @ weights.T
        return np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)


def _agreement(labels: np.ndarray, pairs: Pairs) -> tuple[Bool[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Where two labels agree, and where both are known; labels may carry a leading axis of permutations."""
    first, second = labels[..., pairs[0]], labels[..., pairs[1]]
    return first == second, (first >= 0) & (second >= 0)


def _interval(
    means: _Means, pairs: Pairs, labels: np.ndarray, difference: np.ndarray, confidence: float
) -> tuple[Float[np.ndarray, "rows"], Float[np.ndarray, "rows"]]:
    """Confidence interval by the jackknife over adapters.

    Missing where one left out leaves no pair of a kind, and where the difference is the same whichever is left out:
    equal values say nothing of their error.
    """
    same, usable = _agreement(labels, pairs)
    members = np.flatnonzero(labels >= 0)
    without = np.array([(pairs[0] != index) & (pairs[1] != index) for index in members])
    left_out = means((without & same & usable).astype(float)) - means((without & ~same & usable).astype(float))
    freedom = max(len(members) - len(np.unique(labels[members])), 1)
    spread = left_out.std(axis=1)
    spread = np.where(spread > np.finfo(np.float32).eps * np.abs(means.filled).max(1), spread, np.nan)
    reach = stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(len(members) - 1) * spread
    return difference - reach, difference + reach


def _permuted(
    means: _Means,
    pairs: Pairs,
    labels: np.ndarray,
    strata: np.ndarray,
    count: int,
    generator: np.random.Generator,
) -> tuple[bool, Float[np.ndarray, "rows permutations"]]:
    """Whether all groupings are listed, and the differences under permuted labels."""
    listed = is_listed(labels, strata, count)
    dealt = all_deals(labels, strata) if listed else random_deals(labels, strata, count, generator)
    parts = []
    for chunk in _chunks(dealt, len(pairs[0])):
        same, usable = _agreement(chunk, pairs)
        parts.append(means((same & usable).astype(float)) - means((~same & usable).astype(float)))
    return listed, np.concatenate(parts, axis=1)


def _chunks(dealt: np.ndarray, pairs: int) -> Iterator[np.ndarray]:
    step = max(1, CHUNK_ENTRIES // max(pairs, 1))
    for start in range(0, len(dealt), step):
        yield dealt[start : start + step]


def _p_values(
    difference: np.ndarray, permuted: np.ndarray, correction: Correction, listed: bool, rounding: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p-values, alone and corrected over rows.

    The observed labels count as one permutation: they are one of the listed groupings, and are added to random ones.
    """
    added = 0 if listed else 1
    draws = permuted.shape[1]
    known = np.isfinite(permuted)
    center = np.where(known, permuted, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    spread = np.sqrt(np.where(known, (permuted - center[:, None]) ** 2, 0.0).sum(1) / np.maximum(known.sum(1), 1))
    slack = np.maximum(1e-9 * np.abs(difference), rounding)  # rounding must not decide ties
    far = np.abs(permuted - center[:, None]) >= (np.abs(difference - center) - slack)[:, None]
    p_value = np.where(np.isnan(difference), np.nan, (added + far.sum(1)) / (added + draws))
    if correction == "bh":
        return p_value, _benjamini_hochberg(p_value)
    scale = np.where(spread > 0, spread, np.inf)
    largest = np.where(known, np.abs(permuted - center[:, None]) / scale[:, None], 0.0).max(0)
    own = np.abs(difference - center) / scale
    beyond = (largest[None] >= own[:, None] * (1 - 1e-9)).sum(1)
    return p_value, np.where(np.isnan(difference), np.nan, np.maximum((added + beyond) / (added + draws), p_value))


def _benjamini_hochberg(p_value: np.ndarray) -> np.ndarray:
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p_value), np.nan)
    known = np.isfinite(p_value)
    if known.any():
        adjusted[known] = false_discovery_control(p_value[known])
    return adjusted
