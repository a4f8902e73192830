"""What one factor of one module says of a shared initialization, for all pairs of adapters.

A moves little in training, so that two runs with the same seed keep similar A however different their tasks are: a
shared initialization explains the similarity, and a comparison has to know of it.

Each factor F (rank x d) is replaced by its polar factor (F F^T)^{-1/2} F, whose rows are orthonormal. Let K = F_i F_j^T
for two adapters, whose ranks may differ. Training treats the rows of a factor alike: permuting them or changing their
signs permutes and changes what is trained, for SGD and for Adam, and a random initialization is as likely as its
permuted, sign-changed copy. Between independent initializations every entry of K therefore has mean zero and one
spread, on and off the diagonal, whatever the two runs learned. With a shared initialization row k of one still
resembles row k of the other: only the diagonal is large. The cosine tr K / rank is compared with the standard deviation
that the entries off the diagonal show, never with less than 1/sqrt(d) an entry.

The other way round. A factor that grew to g times its initial squared length and kept its initial part has a cosine of
g^(-1/2) with it, two such a cosine of (g_i g_j)^(-1/2). A shared initialization is ruled out in a module where tr K,
with a margin from the spread of the diagonal, stays below half of that. Half, and only up to g = 2: in 75 settings of
training by Adam (benchmarks/shared_initialization.py) the cosine is at least .58 times that value in 19 of 20 modules
up to g = 1.6, .4 times it at 2.1 and nothing of it at 3.4, because large steps overwrite the initial part. Where the
initial length is not known, nothing is ruled out. Nor is it where the rows span nearly the same space, sum K^2 beyond
what chance gives: a copy whose rows were permuted, negated, mixed or cut is no independent initialization.

Where something orders the rows, as an SVD does, independent runs of one task have K_kk that are large and of either
sign. So one module alone needs K_kk of one sign and nearly one size, and a pair of which some module shows a large
negative tr K is not certain in any: it needs the signs of all modules together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from asym_analysis.adapters.polar_factors import polar, stacked
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["CERTAIN", "INCOMPARABLE", "Evidence", "PairSums", "initialization_evidence", "judged"]

DEVIATIONS = 6.0  # of the null, in one module; two-sided p = 2e-9
SUGGESTIVE = 3.0  # the same, in a module of a pair that all modules together mark
LEAST_COSINE = 0.1  # a factor that moved three times its own length still keeps this much of its initialization
LEAST_RANK = 4  # below it one module has too few entries off the diagonal to measure its null by
FEW = 12.0  # over the number of entries: how much wider a spread is taken that few entries show (as Student's t is)
BLOCK = 64  # adapters whose rows are multiplied with all others at once
GROWN = 2.0  # times its initial squared length: a factor that grew further may have lost its initialization
DOUBT = 1.645  # standard deviations: 19 of 20 pairs that share an initialization stay above
KEPT = 0.5  # of the expected cosine, which a shared initialization shows at least

TURNED = 0.5  # of the squared cosines that a shared initialization leaves, whatever became of its rows
EVEN = 0.6  # least (tr K)^2 over rank sum K_kk^2 of one module alone: rows that an order aligned have mixed signs

REVERSED, ALIKE, INCOMPARABLE, RULED_OUT, SILENT, SUGGESTED, LONE, CERTAIN = -3, -2, -1, 0, 1, 2, 3, 4


@dataclass(frozen=True)
class Evidence:
    """What one factor of one module says of a shared initialization, for some pairs of adapters.

    Attributes
    ----------
    trace, square
        Sum of the diagonal entries of K, and of their squares; NaN where the pair is not comparable.
    level
        -3: tr K is below -6 standard deviations. -2: the rows span nearly one space, but are not alike one by one.
        -1: not comparable. 0: a shared initialization is ruled out. 1: no sign of one, which says nothing. 2: more than
        3 standard deviations. 3: more than 6, at a rank below 4. 4: more than 6, at a rank of at least 4, all K_kk
        nearly equal.
    expected
        Trace that a shared initialization leaves; NaN where that is unknown.
    """

    trace: Float[np.ndarray, "..."]
    square: Float[np.ndarray, "..."]
    level: Int[np.ndarray, "..."]
    expected: Float[np.ndarray, "..."]


@dataclass(frozen=True)
class PairSums:
    """Sums over K of every pair, for a caller that has multiplied the factors already.

    Attributes
    ----------
    trace, square
        Of its diagonal entries, and of their squares.
    total
        Of the squares of all entries.
    gram
        F F^T of each factor, up to a scale of its own, in float64; zeros pad smaller ranks. None where unknown.
    """

    trace: Float[Tensor, "*modules n n"]
    square: Float[Tensor, "*modules n n"]
    total: Float[Tensor, "*modules n n"]
    gram: Float[Tensor, "*modules n rank rank"] | None = None

    def module(self, place: int | list[int]) -> PairSums:
        """The sums of one module, or of some, where there are several."""
        trace, square, total = (part[place] for part in (self.trace, self.square, self.total))
        return PairSums(trace, square, total, None if self.gram is None else self.gram[place])

    def of(self, places: Sequence[int]) -> PairSums:
        """The sums of some adapters, of one module."""
        if len(places) == len(self.trace):
            return self
        chosen = torch.tensor(places)
        trace, square, total = (part[chosen][:, chosen] for part in (self.trace, self.square, self.total))
        return PairSums(trace, square, total, None if self.gram is None else self.gram[chosen])


def initialization_evidence(
    factors: Sequence[Float[Tensor, "_ d"]], growth: Sequence[float] | None = None
) -> tuple[Float[np.ndarray, "n n"], Evidence]:
    """Give the cosines between the factors of one module, and the evidence that they were initialized as one.

    Parameters
    ----------
    factors
        A of several adapters as (rank, d_in), or B^T as (rank, d_out). Ranks may differ: rows are compared in order.
    growth
        Squared length of each factor over that of its initialization; NaN, and the default, where that is unknown.

    Returns
    -------
    cosine
        tr K over the smaller rank; NaN with a zero factor.
    evidence
        For all pairs, as square arrays. A factor and itself are level 4.
    """
    ranks = torch.tensor([len(factor) for factor in factors])
    rows, zero = polar(stacked(factors))
    trace, square = torch.zeros(2, len(factors), len(factors))
    for row in rows.unbind(1):
        product = row @ row.mT
        trace += product
        square += product.square_()
    total = _total(rows)
    known = torch.full((len(factors),), torch.nan) if growth is None else torch.tensor(growth, dtype=torch.float32)
    return judged(PairSums(trace, square, total), ranks, rows.shape[2], zero, known)


def _least(ranks: Int[Tensor, "*modules k"]) -> Int[Tensor, "*modules k k"]:
    return torch.minimum(ranks[..., :, None], ranks[..., None, :])


def judged(
    sums: PairSums,
    ranks: Int[Tensor, "*modules n"],
    size: int,
    zero: Bool[Tensor, "*modules n"],
    growth: Float[Tensor, "*modules n"],
) -> tuple[Float[np.ndarray, "*modules n n"], Evidence]:
    """Cosines and evidence, from the sums over the entries of K.

    Parameters
    ----------
    sums
        Of all pairs.
    ranks
        Rows of each factor.
    size
        Length of a row.
    zero
        True for factors of which nothing is known.
    growth
        Squared length over the initial one; NaN where that is unknown.

    Returns
    -------
    tuple
        As `initialization_evidence`; of each module, where the sums are of several.
    """
    trace, square = sums.trace.clone(), sums.square.clone()
    if bool((ranks == ranks[..., :1]).all()):
        ranks = ranks[..., :1]  # one number stands for all pairs, and is broadcast
    least = _least(ranks)
    expected = _expected(least, growth)
    level = torch.where(_ruled_out(trace, square, expected, least, size), RULED_OUT, SILENT).to(torch.int8)
    excess, margin = _beyond_chance(sums.total, ranks, size)
    limit = TURNED * expected.square() / least
    level[(level == RULED_OUT) & ~(excess + DOUBT * margin < limit)] = SILENT
    level[excess - SUGGESTIVE * margin > limit] = ALIKE
    alike = trace.abs() > LEAST_COSINE * least
    alike.diagonal(dim1=-2, dim2=-1).fill_(False)
    if bool(alike.any()):
        _grade(level, alike, trace, square, sums.total, ranks, size)
    level.diagonal(dim1=-2, dim2=-1).fill_(CERTAIN)
    if bool(zero.any()):
        either = zero[..., :, None] | zero[..., None, :]
        for values, missing in ((trace, torch.nan), (square, torch.nan), (expected, torch.nan), (level, INCOMPARABLE)):
            values[either] = missing
    return (trace / least).numpy(), Evidence(trace.numpy(), square.numpy(), level.numpy(), expected.numpy())


def _beyond_chance(
    total: Float[Tensor, "*modules n n"], ranks: Int[Tensor, "*modules #n"], size: int
) -> tuple[Float[Tensor, "*modules n n"], Float[Tensor, "*modules #n #n"]]:
    """Squared cosines of the row spaces beyond their mean under chance, as a share of what is left, and the error."""
    product = (ranks[..., :, None] * ranks[..., None, :]).double()
    room = (1 - torch.maximum(ranks[..., :, None], ranks[..., None, :]) / size).clamp_min(1e-6)
    return (total - product / size) / room, (2 * product).sqrt() / size / room


def _expected(
    least: Int[Tensor, "*modules #n #n"], growth: Float[Tensor, "*modules n"]
) -> Float[Tensor, "*modules n n"]:
    """Trace that a shared initialization leaves; NaN where one of the two has grown too much, or nobody knows."""
    grown = growth.clamp_min(1.0)
    cosine = torch.where(grown <= GROWN, grown.rsqrt(), torch.nan)
    return least * cosine[..., :, None] * cosine[..., None, :]


def _ruled_out(
    trace: Float[Tensor, "*modules n n"],
    square: Float[Tensor, "*modules n n"],
    expected: Float[Tensor, "*modules n n"],
    least: Int[Tensor, "*modules #n #n"],
    size: int,
) -> Bool[Tensor, "*modules n n"]:
    """Where the module alone rejects a shared initialization."""
    others = (least - 1).clamp_min(1)
    variance = ((square - trace.square() / least) / others).clamp_min(1 / size)
    margin = DOUBT * (1 + FEW / others).sqrt() * (least * variance).sqrt()
    several = trace + margin < KEPT * expected
    # One row shows no spread: whatever the movements have in common, two unit vectors of cosine c^(1/2) with a third
    # have one of 2 c - 1 at least.
    one = trace + DOUBT / size**0.5 < 2 * expected - 1
    return torch.where(least > 1, several, one)


def _grade(
    level: Int[Tensor, "*modules n n"],
    alike: Bool[Tensor, "*modules n n"],
    trace: Float[Tensor, "*modules n n"],
    square: Float[Tensor, "*modules n n"],
    total: Float[Tensor, "*modules n n"],
    ranks: Int[Tensor, "*modules #n"],
    size: int,
) -> None:
    """Fill in the level of those that are alike, in place."""
    least = _least(ranks)
    # The deviation of tr K that the entries off its diagonal show, also widened for what few entries may hide.
    entries = (ranks[..., :, None] * ranks[..., None, :] - least).clamp_min(1)
    spread = (least * (total - square).clamp_min(0) / entries).sqrt()
    floor = (least / size).sqrt()
    plain, wide = torch.maximum(floor, spread), torch.maximum(floor, (1 + FEW / entries).sqrt() * spread)
    level[alike & (trace > SUGGESTIVE * plain)] = SUGGESTED
    score = torch.where(alike, trace / wide, 0.0)
    level[score < -DEVIATIONS] = REVERSED
    level[score > DEVIATIONS] = LONE
    even = trace.square() >= EVEN * least * square
    level[(score > DEVIATIONS) & (least >= LEAST_RANK) & even] = CERTAIN


def _total(rows: Float[Tensor, "n rank d"]) -> Float[Tensor, "n n"]:
    """Sum of the squared entries of K, in blocks of adapters."""
    count, rank, _ = rows.shape
    found = torch.zeros(count, count)
    for first in range(0, count, BLOCK):
        block = rows[first : first + BLOCK]
        crossed = (block.flatten(0, 1) @ rows.flatten(0, 1).mT).square_().reshape(len(block), rank, count, rank)
        found[first : first + BLOCK] = crossed.sum(1).sum(-1)
    return found
