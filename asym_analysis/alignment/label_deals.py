"""Ways to deal labels to adapters: all of them where they can be listed, random ones otherwise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
from jaxtyping import Int

__all__ = ["all_deals", "distinct_deals", "random_deals"]

Labels = Int[np.ndarray, "adapters"]


def distinct_deals(labels: Labels, strata: Labels) -> tuple[int, int]:
    """Number of ways to deal the labels within each stratum, and how many of them group the adapters differently.

    Parameters
    ----------
    labels
        One an adapter; -1 for an adapter without a label, which keeps it.
    strata
        Labels are dealt among adapters of one stratum only.

    Returns
    -------
    tuple
        Deals, and groupings. Exchanging the names of two labels that are equally frequent in every stratum gives the
        same grouping.

    Examples
    --------
    >>> distinct_deals(np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=int))
    (20, 10)
    """
    deals = 1
    columns = []
    for stratum in np.unique(strata):
        counts = Counter(labels[(strata == stratum) & (labels >= 0)].tolist())
        deals *= math.factorial(sum(counts.values())) // math.prod(map(math.factorial, counts.values()))
        columns.append(counts)
    known = np.unique(labels[labels >= 0])
    alike = Counter(tuple(counts[int(label)] for counts in columns) for label in known)
    return deals, deals // math.prod(map(math.factorial, alike.values()))


def all_deals(labels: Labels, strata: Labels) -> Int[np.ndarray, "deals adapters"]:
    """Every grouping of the adapters that dealing the labels within each stratum can give, once.

    Parameters
    ----------
    labels, strata
        As for `distinct_deals`.

    Returns
    -------
    array
        One row a grouping; the observed one is among them. Labels are numbered in the order in which they occur.

    Examples
    --------
    >>> all_deals(np.array([0, 0, 1, 1]), np.zeros(4, dtype=int)).tolist()
    [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]
    """
    groups = [np.flatnonzero((strata == stratum) & (labels >= 0)) for stratum in np.unique(strata)]
    found: dict[tuple[int, ...], None] = {}
    for parts in product(*(list(_arrangements(labels[group].tolist())) for group in groups)):
        dealt = np.full(len(labels), -1)
        for group, part in zip(groups, parts, strict=True):
            dealt[group] = part
        found[_renumbered(dealt)] = None
    return np.array(list(found))


def random_deals(
    labels: Labels, strata: Labels, count: int, generator: np.random.Generator
) -> Int[np.ndarray, "deals adapters"]:
    """`count` random deals of the labels within each stratum.

    Parameters
    ----------
    labels, strata
        As for `distinct_deals`.
    count
        Rows of the result.
    generator
        Source of randomness.

    Returns
    -------
    array
        One row a deal.

    Examples
    --------
    >>> random_deals(np.array([0, 1, -1]), np.zeros(3, dtype=int), 2, np.random.default_rng(0))[:, 2].tolist()
    [-1, -1]
    """
    dealt = np.tile(labels, (count, 1))
    for stratum in np.unique(strata):
        group = np.flatnonzero((strata == stratum) & (labels >= 0))
        dealt[:, group] = generator.permuted(dealt[:, group], axis=1)
    return dealt


def _arrangements(labels: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every distinct order of some labels."""
    counts = Counter(labels)
    if len(counts) <= 1:
        yield tuple(labels)
        return
    first = next(iter(counts))
    rest = [label for label in labels if label != first]
    for places in combinations(range(len(labels)), counts[first]):
        others = [place for place in range(len(labels)) if place not in places]
        for order in _arrangements(rest):
            dealt = [first] * len(labels)
            for place, label in zip(others, order, strict=True):
                dealt[place] = label
            yield tuple(dealt)


def _renumbered(dealt: Labels) -> tuple[int, ...]:
    numbers: dict[int, int] = {}
    return tuple(-1 if label < 0 else numbers.setdefault(label, len(numbers)) for label in dealt.tolist())
