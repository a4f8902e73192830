"""Ways to deal labels to adapters: all of them where they can be listed, random ones otherwise."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from jaxtyping import Int

__all__ = ["all_deals", "groupings", "random_deals"]

Labels = Int[np.ndarray, "adapters"]


def groupings(labels: Labels, strata: Labels) -> int:
    """Number of ways in which dealing the labels within each stratum can group the adapters.

    Parameters
    ----------
    labels
        One an adapter; -1 for an adapter without a label, which keeps it.
    strata
        Labels are dealt among adapters of one stratum only.

    Returns
    -------
    int
        Exchanging the names of two labels that are equally frequent in every stratum gives the
        same grouping.

    Examples
    --------
    >>> groupings(np.array([0, 0, 0, 1, 1, 1]), np.zeros(6, dtype=int))
    10
    """
    deals = 1
    columns = []
    for stratum in np.unique(strata):
        counts = Counter(labels[(strata == stratum) & (labels >= 0)].tolist())
        deals *= math.factorial(sum(counts.values())) // math.prod(map(math.factorial, counts.values()))
        columns.append(counts)
    known = np.unique(labels[labels >= 0])
    alike = Counter(tuple(counts[int(label)] for counts in columns) for label in known)
    return deals // math.prod(map(math.factorial, alike.values()))


def all_deals(labels: Labels, strata: Labels) -> Int[np.ndarray, "deals adapters"]:
    """Every grouping of the adapters that dealing the labels within each stratum can give, once.

    Parameters
    ----------
    labels, strata
        As for `groupings`.

    Returns
    -------
    array
        One row a grouping; the observed one is among them. Labels are numbered in the order in which they occur.

    Examples
    --------
    >>> all_deals(np.array([0, 0, 1, 1]), np.zeros(4, dtype=int)).tolist()
    [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]
    """
    known = np.flatnonzero(labels >= 0)
    left = Counter(zip(strata[known].tolist(), labels[known].tolist(), strict=True))
    names = np.unique(labels[known]).tolist()
    columns = {name: tuple(left[stratum, name] for stratum in np.unique(strata[known]).tolist()) for name in names}
    # Labels of one column are interchangeable: each is first used after the one before it.
    before = {
        name: [other for other in names[:place] if columns[other] == columns[name]][-1:]
        for place, name in enumerate(names)
    }
    dealt = np.full(len(labels), -1)
    used: Counter[int] = Counter()
    found: list[list[int]] = []

    def allowed(place: int) -> list[int]:
        stratum = int(strata[known[place]])
        return [name for name in names if left[stratum, name] and (used[name] or all(used[o] for o in before[name]))]

    # A stack instead of recursion, which as many adapters as Python allows calls would end.
    waiting = [allowed(0)]
    while waiting:
        place = known[len(waiting) - 1]
        stratum, name = int(strata[place]), int(dealt[place])
        if name >= 0:  # what was dealt here is taken back
            left[stratum, name] += 1
            used[name] -= 1
            dealt[place] = -1
        if not waiting[-1]:
            waiting.pop()
            continue
        name = waiting[-1].pop(0)
        left[stratum, name] -= 1
        used[name] += 1
        dealt[place] = name
        if len(waiting) == len(known):
            found.append(_renumbered(dealt))
        else:
            waiting.append(allowed(len(waiting)))
    return np.array(found)


def random_deals(
    labels: Labels, strata: Labels, count: int, generator: np.random.Generator
) -> Int[np.ndarray, "deals adapters"]:
    """`count` random deals of the labels within each stratum.

    Parameters
    ----------
    labels, strata
        As for `groupings`.
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


def _renumbered(dealt: Labels) -> list[int]:
    numbers: dict[int, int] = {}
    return [-1 if label < 0 else numbers.setdefault(label, len(numbers)) for label in dealt.tolist()]
