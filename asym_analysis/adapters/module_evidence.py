"""Evidence of a shared initialization in one module of many adapters, of which some may lack it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from asym_analysis.adapters.factors_from_svd import with_initialization
from asym_analysis.adapters.initialization_evidence import (
    INCOMPARABLE,
    RULED_OUT,
    Evidence,
    PairSums,
    initialization_evidence,
    judged,
)
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.lazy_torch import torch
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = ["module_evidence"]

SHRUNK = 0.9  # of the initial squared length, below which something else than movement has changed it


def module_evidence(
    updates: Mapping[int, LowRankUpdate],
    randomly: Mapping[int, frozenset[Factor]],
    count: int,
    known: Mapping[Factor, PairSums] | None = None,
    initial: Mapping[int, Mapping[Factor, tuple[float, ...]]] | None = None,
) -> dict[Factor, tuple[Float[np.ndarray, "n n"], Evidence]]:
    """Give the evidence of one module among `count` adapters, of which some may lack it.

    Parameters
    ----------
    updates
        Adapter's index -> its module, or the recorded initial factors of it.
    randomly
        Adapter's index -> the factors that were initialized at random.
    count
        Number of adapters.
    known
        What is multiplied already: sums of all pairs of `updates`, in their order, of one size and none of them zero.
    initial
        Adapter's index -> factor -> expected squared length of its initialization, or several that it may have had.

    Returns
    -------
    dict
        Each factor that was initialized at random in two adapters or more -> cosine and evidence as in
        `initialization_evidence`, count x count. A factor that was random in only one of two adapters is no shared
        initialization (level 0, ruled out); sizes that differ, or factors that an SVD split, are not comparable.
    """
    asked = [factor for factor in FACTORS if sum(factor in randomly[index] for index in updates) > 1]
    gram = known["A"].gram if known and "A" in known else None
    held = with_initialization(updates, gram) if asked else {}
    order = {index: place for place, index in enumerate(updates)}
    found = {}
    for factor in asked:
        sums = (known or {}).get(factor)
        lengths = {index: (initial or {}).get(index, {}).get(factor, ()) for index in held}
        found[factor] = _pairs_evidence(held, randomly, factor, count, order, sums, lengths)
    return found


def _pairs_evidence(
    held: Mapping[int, LowRankUpdate],
    randomly: Mapping[int, frozenset[Factor]],
    factor: Factor,
    count: int,
    order: Mapping[int, int],
    known: PairSums | None,
    lengths: Mapping[int, tuple[float, ...]],
) -> tuple[Float[np.ndarray, "n n"], Evidence]:
    cosine = np.full((count, count), np.nan, dtype=np.float32)
    trace, square, expected = np.full((3, count, count), np.nan, dtype=np.float16)  # as comparisons keep them
    level = np.full((count, count), INCOMPARABLE, dtype=np.int8)
    apart = [index for index in held if factor not in randomly[index]]
    factors = {index: u.A if factor == "A" else u.B.mT for index, u in held.items() if factor in randomly[index]}
    members = list(factors)
    if apart:
        level[np.ix_(apart, members)] = level[np.ix_(members, apart)] = RULED_OUT
    for size in {factors[index].shape[1] for index in members}:
        alike = [index for index in members if factors[index].shape[1] == size]
        grid = (slice(None), slice(None)) if len(alike) == count else np.ix_(alike, alike)
        growth = [_growth(held[index].factor_norm(factor) ** 2, lengths[index]) for index in alike]
        if known is None:
            cosine[grid], found = initialization_evidence([factors[index] for index in alike], growth)
        else:
            ranks = torch.tensor([len(factors[index]) for index in alike])
            sums = known.of([order[index] for index in alike])
            zero = torch.zeros(len(alike), dtype=torch.bool)
            cosine[grid], found = judged(sums, ranks, size, zero, torch.tensor(growth))
        trace[grid], square[grid], level[grid] = found.trace, found.square, found.level
        expected[grid] = found.expected
    return cosine, Evidence(trace, square, level, expected)


def _growth(square: float, initial: tuple[float, ...]) -> float:
    """Squared length over the initial one; unknown also where the factor shrank, as by weight decay or a scale."""
    return min((square / each for each in initial if square > SHRUNK * each), default=math.nan)
