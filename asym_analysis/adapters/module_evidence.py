"""Evidence of a shared initialization in one module or several of many adapters, of which some may lack it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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

__all__ = ["module_evidence", "modules_evidence"]

SHRUNK = 0.9  # of the initial squared length, below which something else than movement has changed it


def module_evidence(
    updates: Mapping[int, LowRankUpdate],
    randomly: Mapping[int, frozenset[Factor]],
    count: int,
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
    initial
        Adapter's index -> factor -> expected squared length of its initialization, or several that it may have had.

    Returns
    -------
    dict
        Each factor that was initialized at random in two adapters or more -> cosine and evidence as in
        `initialization_evidence`, count x count. A factor that was random in only one of two adapters is no shared
        initialization (level 0, ruled out); sizes that differ, or factors that an SVD split, are not comparable.
    """
    return modules_evidence([updates], randomly, count, [initial or {}])[0]


def modules_evidence(
    batch: Sequence[Mapping[int, LowRankUpdate]],
    randomly: Mapping[int, frozenset[Factor]],
    count: int,
    initial: Sequence[Mapping[int, Mapping[Factor, tuple[float, ...]]]],
    known: Mapping[Factor, PairSums] | None = None,
) -> list[dict[Factor, tuple[Float[np.ndarray, "n n"], Evidence]]]:
    """Give the evidence of several modules that the same adapters have.

    Parameters
    ----------
    batch
        As `updates` of `module_evidence`, one a module.
    randomly, count
        As there.
    initial
        As there, one a module.
    known
        What is multiplied already: sums of all modules and pairs, in their order, of one size and none of them zero.

    Returns
    -------
    list of dict
        As `module_evidence`, one a module.
    """
    known = known or {}
    members = list(batch[0])
    asked = [factor for factor in FACTORS if sum(factor in randomly[index] for index in members) > 1]
    if not asked:
        return [{} for _ in batch]
    flat = {at * count + index: update for at, updates in enumerate(batch) for index, update in updates.items()}
    gram = known["A"].gram if "A" in known else None
    kept = with_initialization(flat, None if gram is None else gram.flatten(0, 1))
    order = {index: place for place, index in enumerate(members)}
    found: list[dict[Factor, tuple[Float[np.ndarray, "n n"], Evidence]]] = [{} for _ in batch]
    for factor in asked:
        together: list[int] = []
        for at, updates in enumerate(batch):
            held = {index: update for index, update in updates.items() if at * count + index in kept}
            if factor in known and len(held) == count and all(factor in randomly[index] for index in held):
                together.append(at)
                continue
            sums = known[factor].module(at) if factor in known else None
            lengths = {index: initial[at].get(index, {}).get(factor, ()) for index in held}
            found[at][factor] = _pairs_evidence(held, randomly, factor, count, order, sums, lengths)
        if together:
            alike = [batch[at] for at in together]
            sums = known[factor] if len(together) == len(batch) else known[factor].module(together)
            lengths_of = [[initial[at].get(index, {}).get(factor, ()) for index in members] for at in together]
            for at, evidence in zip(together, _of_all(alike, factor, sums, lengths_of), strict=True):
                found[at][factor] = evidence
    return found


def _of_all(
    batch: Sequence[Mapping[int, LowRankUpdate]],
    factor: Factor,
    sums: PairSums,
    lengths: Sequence[Sequence[tuple[float, ...]]],
) -> list[tuple[Float[np.ndarray, "n n"], Evidence]]:
    """Evidence of modules that all adapters have and initialized at random."""
    of_each = [list(updates.values()) for updates in batch]
    ranks = torch.tensor([[update.rank for update in updates] for updates in of_each])
    growth = torch.tensor(
        [
            [_growth(update.factor_norm(factor) ** 2, known) for update, known in zip(updates, initial, strict=True)]
            for updates, initial in zip(of_each, lengths, strict=True)
        ]
    )
    first = of_each[0][0]
    size = first.d_in if factor == "A" else first.d_out
    cosine, told = judged(sums, ranks, size, torch.zeros_like(ranks, dtype=torch.bool), growth)
    kept = [part.astype(np.float16) for part in (told.trace, told.square, told.expected)]  # as comparisons keep them
    return [(cosine[at], Evidence(kept[0][at], kept[1][at], told.level[at], kept[2][at])) for at in range(len(of_each))]


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
    least = math.inf
    for each in initial:  # a loop, because it runs for every adapter and module
        if square > SHRUNK * each and square / each < least:
            least = square / each
    return least if least < math.inf else math.nan
