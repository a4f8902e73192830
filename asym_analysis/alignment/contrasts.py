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

from asym_analysis.alignment.label_deals import all_deals, groupings, random_deals
from asym_analysis.results import TableResult
from asym_analysis.vocabulary import choose, finite, whole

__all__ = ["CORRECTIONS", "Contrast", "Correction", "contrast_pairs", "is_listed"]

Correction = Literal["max-t", "bh"]
CORRECTIONS: tuple[Correction, ...] = ("max-t", "bh")
LISTED = 100_000  # groupings, at most, that are listed
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
        Labels are permuted within these only, and pairs of one stratum and of two are contrasted each for themselves;
        -1 leaves the adapter out.
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
        If no pair, or every pair, has the same label, also where all that have are of one stratum and the others of
        two or the other way round, there are fewer than three adapters, a value is infinite, or an argument is out of
        range.

    Notes
    -----
    The interval is difference +- t s, with s^2 = (n - 1) / n sum_i (D_(i) - mean D_(i))^2, where D_(i) is the
    difference without adapter i (the jackknife, Tukey 1958), and t the quantile of Student's distribution with as many
    degrees of freedom as there are adapters less labels, or fewer where few adapters carry most of the difference. By
    simulation it covers 90 to 100 %, from two against two up, and 79 to 96 % where the strengths of adapters have
    heavy tails (benchmarks/results/contrast_coverage.csv); it is several times too wide where each adapter adds its own
    constant to all of its pairs in a balanced design. Leaving out adapters within labels, or drawing them with
    replacement, covers less: 8 to 93 % for pairs of adapters.

    The p-value is that of labels which have nothing to do with the similarities. A label whose adapters are more alike
    with everything, as of a higher rank, has to do with them, and p is small then in groups of unequal size.

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
    strata = np.zeros(len(labels), dtype=int) if strata is None else strata
    labels = np.where(strata >= 0, labels, -1)
    contrast = _Contrast(values, pairs, strata)
    same, usable = _agreement(labels, pairs)
    kinds = [(int((same & usable & cell).sum()), int((~same & usable & cell).sum())) for cell in contrast.cells]
    if (labels >= 0).sum() < 3 or not any(min(counts) for counts in kinds):
        agree, differ = np.sum(kinds, axis=0)
        where = ", and never where `within` agrees, or never where it differs, both" if min(agree, differ) else ""
        raise ValueError(
            f"nothing to contrast: {agree} pairs agree and {differ} differ among {int((labels >= 0).sum())} labelled "
            f"adapters{where}; both kinds are needed"
        )
    if np.isinf(values).any():
        raise ValueError(
            f"{int(np.isinf(values).sum())} values are infinite, so that means do not exist: choose a bounded measure"
        )
    of_same, of_different = (side[:, 0] for side in contrast(same[None], usable[None]))
    difference = of_same - of_different
    low, high = _interval(contrast, pairs, labels, difference, confidence)
    listed, permuted = _permuted(contrast, pairs, labels, strata, resamples, np.random.default_rng(seed))
    rounding = np.finfo(np.float32).eps * np.abs(contrast.filled).max(1)
    p_value, p_adjusted = _p_values(difference, permuted, correction, listed, rounding)
    least = 1 / groupings(labels, strata) if listed else 1 / (1 + resamples)
    return pd.DataFrame(
        {
            "same": of_same,
            "different": of_different,
            "difference": difference,
            "low": low,
            "high": high,
            "p_value": p_value,
            "p_adjusted": p_adjusted,
            "least_p": np.where(np.isnan(p_value), np.nan, least),
        }
    )


def is_listed(labels: Int[np.ndarray, "adapters"], strata: Int[np.ndarray, "adapters"], resamples: int) -> bool:
    """Whether all groupings are listed rather than drawn: there are at most `resamples`.

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
    return groupings(labels, strata) <= min(resamples, LISTED)


class _Contrast:
    """Means of every row over pairs that agree and over those that do not, for many deals of labels at once.

    Missing values are left out. Pairs of one stratum and pairs of two are contrasted each for themselves, and count in
    both means as much as the fewer kind of them allows: a_c d_c / (a_c + d_c) for a_c pairs that agree and d_c that do
    not. So what the strata explain is in neither difference.
    """

    def __init__(self, values: Float[np.ndarray, "rows pairs"], pairs: Pairs, strata: Int[np.ndarray, "_"]) -> None:
        known = np.isfinite(values)
        self.filled = np.where(known, values, 0.0)
        self.known = None if known.all() else known.astype(float)
        together = strata[pairs[0]] == strata[pairs[1]]
        self.cells = [cell for cell in (together, ~together) if cell.any()]

    def __call__(
        self, same: Bool[np.ndarray, "sets pairs"], usable: Bool[np.ndarray, "sets pairs"]
    ) -> tuple[Float[np.ndarray, "rows sets"], Float[np.ndarray, "rows sets"]]:
        """Both means, NaN where no cell has both kinds of pairs."""
        totals, whole = [0.0, 0.0], 0.0
        for cell in self.cells:
            counts, means = zip(*(self._mean(usable & cell & side) for side in (same, ~same)), strict=True)
            weight = counts[0] * counts[1] / np.maximum(counts[0] + counts[1], 1)
            whole = whole + weight
            totals = [total + weight * mean for total, mean in zip(totals, means, strict=True)]
        agree, differ = (np.where(whole > 0, total / np.where(whole > 0, whole, 1.0), np.nan) for total in totals)
        return agree, differ

    def _mean(self, chosen: Bool[np.ndarray, "sets pairs"]) -> tuple[np.ndarray, Float[np.ndarray, "rows sets"]]:
        """Number of values, and their mean; 0 where there are none."""
        weights = chosen.astype(float)
        count = weights.sum(1)[None] if self.known is None else self.known @ weights.T
        return count, self.filled @ weights.T / np.maximum(count, 1)


def _agreement(labels: np.ndarray, pairs: Pairs) -> tuple[Bool[np.ndarray, "..."], Bool[np.ndarray, "..."]]:
    """Where two labels agree, and where both are known; labels may carry a leading axis of permutations."""
    first, second = labels[..., pairs[0]], labels[..., pairs[1]]
    return first == second, (first >= 0) & (second >= 0)


def _interval(
    contrast: _Contrast, pairs: Pairs, labels: np.ndarray, difference: np.ndarray, confidence: float
) -> tuple[Float[np.ndarray, "rows"], Float[np.ndarray, "rows"]]:
    """Confidence interval by the jackknife over adapters.

    Missing where one left out leaves no pair of a kind, and where the difference is the same whichever is left out:
    equal values say nothing of their error.
    """
    same, usable = _agreement(labels, pairs)
    members = np.flatnonzero(labels >= 0)
    without = np.array([(pairs[0] != index) & (pairs[1] != index) for index in members])
    agree, differ = contrast(np.broadcast_to(same, without.shape), without & usable)
    left_out = agree - differ
    spread = left_out.std(axis=1)
    spread = np.where(spread > np.finfo(np.float32).eps * np.abs(contrast.filled).max(1), spread, np.nan)
    freedom = _freedom(pairs, labels, same, usable)
    reach = stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt(len(members) - 1) * spread
    return difference - reach, difference + reach


def _freedom(pairs: Pairs, labels: np.ndarray, same: np.ndarray, usable: np.ndarray) -> float:
    """Degrees of freedom: adapters less labels, or fewer where few adapters carry most of the difference.

    An effect of adapter i on all of its pairs is in the difference with a weight c_i, of which (sum c_i^2)^2 / sum
    c_i^4 are large: all where the groups are equally large, two for two against twenty.
    """
    members = np.flatnonzero(labels >= 0)
    most = float(len(members) - len(np.unique(labels[members])))
    weights = same * usable / max((same & usable).sum(), 1) - ~same * usable / max((~same & usable).sum(), 1)
    carried = np.bincount(pairs[0], weights, len(labels)) + np.bincount(pairs[1], weights, len(labels))
    squares = np.where(np.abs(carried) > 1e-9, carried, 0.0)[members] ** 2
    if squares.any():
        most = min(most, float(squares.sum() ** 2 / (squares**2).sum()))
    return max(most, 1.0)


def _permuted(
    contrast: _Contrast,
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
        agree, differ = contrast(same, usable)
        parts.append(agree - differ)
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
