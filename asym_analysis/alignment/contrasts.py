"""Same against different: whether adapters of one task (seed, initialization, rank, ...) are more alike than others.

Pairs are not independent, for each adapter stands in many of them. Intervals therefore resample adapters, and p-values
permute the labels of adapters, never of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from asym_analysis.results import Result

__all__ = ["Contrast", "Correction", "contrast_pairs"]

Correction = Literal["max-t", "bh"]
CHUNK_ENTRIES = 2**23  # of the weights of several resamples at once: 64 MB
Pairs = tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]


@dataclass(frozen=True, eq=False)
class Contrast(Result):
    """Mean similarity of same and different pairs.

    Attributes
    ----------
    frame
        One row a factor and module, and one a factor for the mean over all modules, called "all": factor, module, same
        and different (means), difference, low and high (its confidence interval, adapters resampled), p_value (labels
        permuted, two-sided), p_adjusted (over the modules of all factors; that of "all", over the factors).
    settings
        What was contrasted, with counts and seed.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def summary(self) -> pd.DataFrame:
        """The rows of the mean over all modules."""
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
    labels
        One an adapter; -1 leaves the adapter out.
    strata
        Labels are permuted within these only.
    resamples
        Number of bootstrap samples of adapters, and of permutations.
    correction
        "max-t": family-wise, by the largest standardized difference of each permutation (Westfall and Young 1993);
        "bh": false discovery rate (Benjamini and Hochberg 1995).

    Returns
    -------
    DataFrame
        same, different, difference, low, high, p_value, p_adjusted, in the order of the rows.

    Raises
    ------
    ValueError
        If no pair, or every pair, has the same label, or there are fewer than three adapters.

    Examples
    --------
    >>> pairs = np.triu_indices(4, 1)
    >>> labels = np.array([0, 0, 1, 1])
    >>> values = np.where(labels[pairs[0]] == labels[pairs[1]], 0.8, 0.1)[None]
    >>> contrast_pairs(values, pairs, labels, resamples=200).difference.round(3).tolist()
    [0.7]
    """
    known = labels >= 0
    same, usable = _agreement(labels, pairs)
    if known.sum() < 3 or not (same & usable).any() or not (~same & usable).any():
        raise ValueError(
            f"nothing to contrast: {int((same & usable).sum())} pairs agree and {int((~same & usable).sum())} differ "
            f"among {int(known.sum())} labelled adapters; both kinds are needed"
        )
    generator = np.random.default_rng(seed)
    means = _Means(values)
    of_same, of_different = (means(mask[None].astype(float))[:, 0] for mask in (same & usable, ~same & usable))
    difference = of_same - of_different
    drawn = _resampled(means, pairs, labels, resamples, generator)
    tail = (1 - confidence) / 2
    low, high = _quantiles(drawn, [tail, 1 - tail])
    permuted = _permuted(means, pairs, labels, strata, resamples, generator)
    p_value, p_adjusted = _p_values(difference, permuted, correction)
    return pd.DataFrame(
        {
            "same": of_same,
            "different": of_different,
            "difference": difference,
            "low": low,
            "high": high,
            "p_value": p_value,
            "p_adjusted": p_adjusted,
        }
    )


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


def _chunks(total: int, pairs: int) -> list[int]:
    step = max(1, CHUNK_ENTRIES // max(pairs, 1))
    return [min(step, total - start) for start in range(0, total, step)]


def _resampled(
    means: _Means, pairs: Pairs, labels: np.ndarray, count: int, generator: np.random.Generator
) -> Float[np.ndarray, "rows samples"]:
    """Differences when adapters are drawn with replacement; a pair counts as often as both its adapters were drawn."""
    members = np.flatnonzero(labels >= 0)
    same, usable = _agreement(labels, pairs)
    parts = []
    for step in _chunks(count, len(pairs[0])):
        copies = np.zeros((step, len(labels)))
        copies[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=step)
        weights = copies[:, pairs[0]] * copies[:, pairs[1]]
        parts.append(means(weights * (same & usable)) - means(weights * (~same & usable)))
    return np.concatenate(parts, axis=1)


def _permuted(
    means: _Means,
    pairs: Pairs,
    labels: np.ndarray,
    strata: np.ndarray | None,
    count: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "rows permutations"]:
    """Differences when the adapters' labels are dealt out anew, within each stratum."""
    strata = np.zeros(len(labels), dtype=int) if strata is None else strata
    groups = [np.flatnonzero((strata == stratum) & (labels >= 0)) for stratum in np.unique(strata)]
    parts = []
    for step in _chunks(count, len(pairs[0])):
        dealt = np.tile(labels, (step, 1))
        for group in groups:
            dealt[:, group] = generator.permuted(dealt[:, group], axis=1)
        same, usable = _agreement(dealt, pairs)
        parts.append(means((same & usable).astype(float)) - means((~same & usable).astype(float)))
    return np.concatenate(parts, axis=1)


def _quantiles(drawn: np.ndarray, levels: list[float]) -> np.ndarray:
    # A resample without any pair of one kind says nothing; a row without any value has no interval.
    empty = np.isnan(drawn).all(1)
    found = np.full((len(levels), len(drawn)), np.nan)
    if not empty.all():
        found[:, ~empty] = np.nanquantile(drawn[~empty], levels, axis=1)
    return found


def _p_values(difference: np.ndarray, permuted: np.ndarray, correction: Correction) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided p-values, alone and corrected over rows; a permutation counts as its own first draw."""
    draws = permuted.shape[1]
    known = np.isfinite(permuted)
    center = np.where(known, permuted, 0.0).sum(1) / np.maximum(known.sum(1), 1)
    spread = np.sqrt(np.where(known, (permuted - center[:, None]) ** 2, 0.0).sum(1) / np.maximum(known.sum(1), 1))
    slack = 1e-9 * np.maximum(np.abs(difference), 1e-12)  # rounding must not decide ties
    far = np.abs(permuted - center[:, None]) >= (np.abs(difference - center) - slack)[:, None]
    p_value = np.where(np.isnan(difference), np.nan, (1 + far.sum(1)) / (1 + draws))
    if correction == "bh":
        return p_value, _benjamini_hochberg(p_value)
    scale = np.where(spread > 0, spread, np.inf)
    largest = np.where(known, np.abs(permuted - center[:, None]) / scale[:, None], 0.0).max(0)
    own = np.abs(difference - center) / scale
    beyond = (largest[None] >= own[:, None] * (1 - 1e-9)).sum(1)
    return p_value, np.where(np.isnan(difference), np.nan, np.maximum((1 + beyond) / (1 + draws), p_value))


def _benjamini_hochberg(p_value: np.ndarray) -> np.ndarray:
    from scipy.stats import false_discovery_control

    adjusted = np.full(len(p_value), np.nan)
    known = np.isfinite(p_value)
    if known.any():
        adjusted[known] = false_discovery_control(p_value[known])
    return adjusted
