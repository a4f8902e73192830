"""One rule for "did these adapters share an initialization?", and for which factors were initialized at random.

A moves little in training, so that two runs with the same seed keep similar A however different their tasks are: a
shared initialization explains the similarity, and a comparison has to know of it.

The evidence of one module. Each factor F (rank x d) is replaced by its polar factor (F F^T)^{-1/2} F, whose rows are
orthonormal: the few directions along which a factor grew count no more than those where it still is what it was. Let
K = F_i F_j^T for two adapters, whose ranks may differ. Training treats the rows of a factor alike: permuting them or
changing their signs permutes and changes what is trained, for SGD and for Adam, and a random initialization is as
likely as its permuted, sign-changed copy. Between independent initializations every entry of K therefore has mean zero
and one spread, on and off the diagonal, whatever the two runs learned. With a shared initialization row k of one still
resembles row k of the other: only the diagonal is large. The cosine tr K / rank is compared with the standard deviation
that the entries off the diagonal show, never with less than 1/sqrt(d) an entry.

The evidence of all modules. A factor of rank 1 has no entries off the diagonal, and two independent runs on one task
may well converge to one direction, up to its sign. But the signs of independent runs are independent fair coins, for
every row of every module. With S the sum of the diagonals K_kk over rows and modules and Q that of their squares,
S/sqrt(Q) is a normalized Rademacher sum: P(S/sqrt(Q) > 4.5) < 1.1e-5, whatever the K_kk [1]_ (2^-24 where 24 of them
are equal). Where that is exceeded the pair shares an initialization, and weaker evidence marks its modules; where one
module of rank below 4 stands alone, it cannot be told.

Factors that were split anew from their product, by an SVD (extracted, resized or merged LoRA), hold no initialization:
their rows are orthogonal on both sides. They are compared with nothing.

References
----------
.. [1] V. Bentkus and D. Dzindzalieta, A tight Gaussian bound for weighted sums of Rademacher random variables,
   Bernoulli 21 (2015), theorem 1.1: P(S > x sqrt(Q)) is at most 3.18 times the normal tail.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.known_initializations import known_laws
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.lazy_torch import Tensor, torch
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = [
    "Evidence",
    "PairSums",
    "has_initialization",
    "initialization_evidence",
    "inverse_root",
    "marks",
    "module_evidence",
    "random_factors",
    "same_initialization",
]

DEVIATIONS = 6.0  # of the null, in one module; two-sided p = 2e-9
SUGGESTIVE = 3.0  # the same, in a module of a pair that all modules together mark
POOLED = 4.5  # of the sum over all modules; 24 modules of rank 1 can pass it
LEAST_COSINE = 0.1  # a factor that moved three times its own length still keeps this much of its initialization
LEAST_RANK = 4  # below it one module has too few entries off the diagonal to measure its null by
BALANCED_ENTRIES = 9.0  # sum of squared diagonals from which balanced signs say that a pair shares nothing
FEW = 12.0  # over the number of entries: how much wider a spread is taken that few entries show (as Student's t is)
BLOCK = 64  # adapters whose rows are multiplied with all others at once
FLAT = 0.6  # participation of the singular values above which a factor may have been initialized at random
MOST_MODULES = 12  # read to judge an adapter's spectra; a training run initializes all its modules in one way
LEAST_ENERGY, MOST_ENERGY = 1e-20, 1e20  # squared norms that float32 holds with room to spare
SCREENED = 2.0  # times the next number: rows further from orthogonal need no second look
ORTHOGONAL = 0.05  # cosines of rows, over 1/sqrt(d), below which the factors were split by an SVD

INCOMPARABLE, NONE, SUGGESTED, LONE, CERTAIN = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Evidence:
    """What one factor of one module says of a shared initialization, for some pairs of adapters.

    Attributes
    ----------
    trace, square
        Sum of the diagonal entries of K, and of their squares; NaN where the pair is not comparable.
    level
        -1: not comparable. 0: no sign of a shared initialization. 1: more than 3 standard deviations. 2: more than 6,
        at a rank below 4. 3: more than 6, at a rank of at least 4.
    """

    trace: Float[np.ndarray, "..."]
    square: Float[np.ndarray, "..."]
    level: Int[np.ndarray, "..."]


@dataclass(frozen=True)
class PairSums:
    """Sums over K of every pair, for a caller that has multiplied the factors already.

    Attributes
    ----------
    trace, square
        Of its diagonal entries, and of their squares.
    total
        Of the squares of all entries; needed only where the trace is above `LEAST_COSINE` times the smaller rank.
    gram
        F F^T of each factor, up to a scale of its own, in float64; zeros pad smaller ranks.
    """

    trace: Float[Tensor, "n n"]
    square: Float[Tensor, "n n"]
    total: Float[Tensor, "n n"]
    gram: Float[Tensor, "n rank rank"]

    def of(self, places: Sequence[int]) -> PairSums:
        """The sums of some adapters."""
        if len(places) == len(self.trace):
            return self
        chosen = torch.tensor(places)
        trace, square, total = (part[chosen][:, chosen] for part in (self.trace, self.square, self.total))
        return PairSums(trace, square, total, self.gram[chosen])


def marks(evidence: Sequence[Evidence]) -> Int[np.ndarray, "modules ..."]:
    """Decide from the evidence of all modules in which of them each pair shares its initialization.

    Parameters
    ----------
    evidence
        Of the same factor and pairs, one a module.

    Returns
    -------
    ndarray
        int8, one row a module: 1 where the initialization is shared, 0 where there is no sign of it, -1 where it cannot
        be told or the module is not comparable. A module without a sign of its own cannot be told where the signs of
        all modules that are not certain, taken together, point to a shared initialization.
    """
    level = np.stack([one.level for one in evidence])
    trace, square = (np.stack([getattr(one, name) for one in evidence]).astype(float) for name in ("trace", "square"))
    total, squares = np.nansum(trace, axis=0), np.nansum(square, axis=0)
    pooled = total > POOLED * np.sqrt(squares)
    uncertain = (level >= NONE) & (level < CERTAIN)
    undecided = np.nansum(trace, axis=0, where=uncertain) > POOLED * np.sqrt(np.nansum(square, axis=0, where=uncertain))
    balanced = (squares >= BALANCED_ENTRIES) & (total < squares / 2)
    silent = np.where((level == INCOMPARABLE) | undecided, -1, 0)
    found = np.where(level == LONE, np.where(balanced, 0, -1), silent)
    return np.where((level == CERTAIN) | (pooled & (level >= SUGGESTED)), 1, found).astype(np.int8)


def initialization_evidence(factors: Sequence[Float[Tensor, "_ d"]]) -> tuple[Float[np.ndarray, "n n"], Evidence]:
    """Give the cosines between the factors of one module, and the evidence that they were initialized as one.

    Parameters
    ----------
    factors
        A of several adapters as (rank, d_in), or B^T as (rank, d_out). Ranks may differ: rows are compared in order.

    Returns
    -------
    cosine
        tr K over the smaller rank; NaN with a zero factor.
    evidence
        For all pairs, as square arrays. A factor and itself are level 3.
    """
    ranks = torch.tensor([len(factor) for factor in factors])
    rows, zero = _polar(_stacked(factors))
    trace, square = torch.zeros(2, len(factors), len(factors))
    for row in rows.unbind(1):
        product = row @ row.mT
        trace += product
        square += product.square_()
    total = _total(rows, trace > LEAST_COSINE * _least(ranks))
    return _judged(trace, square, total, ranks, rows.shape[2], zero)


def _least(ranks: Int[Tensor, "n"]) -> Int[Tensor, "n n"]:
    return torch.minimum(ranks[:, None], ranks[None, :])


def _judged(
    trace: Float[Tensor, "n n"],
    square: Float[Tensor, "n n"],
    total: Float[Tensor, "n n"],
    ranks: Int[Tensor, "n"],
    size: int,
    zero: Bool[Tensor, "n"],
) -> tuple[Float[np.ndarray, "n n"], Evidence]:
    """Cosines and evidence, from the sums over the entries of K; `zero` marks factors of which nothing is known."""
    trace, square = trace.clone(), square.clone()
    least = _least(ranks)
    alike = (trace > LEAST_COSINE * least).fill_diagonal_(False)
    level = torch.full(trace.shape, NONE, dtype=torch.int8)
    if bool(alike.any()):
        _grade(level, alike, trace, square, total, ranks, size)
    level.fill_diagonal_(CERTAIN)
    if bool(zero.any()):
        for values, missing in ((trace, torch.nan), (square, torch.nan), (level, INCOMPARABLE)):
            values[zero], values[:, zero] = missing, missing
    return (trace / least).numpy(), Evidence(trace.numpy(), square.numpy(), level.numpy())


def _grade(
    level: Int[Tensor, "n n"],
    alike: Bool[Tensor, "n n"],
    trace: Float[Tensor, "n n"],
    square: Float[Tensor, "n n"],
    total: Float[Tensor, "n n"],
    ranks: Int[Tensor, "n"],
    size: int,
) -> None:
    """Fill in the level of those that are alike, in place."""
    least = _least(ranks)
    # The deviation of tr K that the entries off its diagonal show, also widened for what few entries may hide.
    entries = (ranks[:, None] * ranks[None, :] - least).clamp_min(1)
    spread = (least * (total - square).clamp_min(0) / entries).sqrt()
    floor = (least / size).sqrt()
    plain, wide = torch.maximum(floor, spread), torch.maximum(floor, (1 + FEW / entries).sqrt() * spread)
    level[alike & (trace > SUGGESTIVE * plain)] = SUGGESTED
    score = torch.where(alike, trace / wide, 0.0)
    level[score > DEVIATIONS] = LONE
    level[(score > DEVIATIONS) & (least >= LEAST_RANK)] = CERTAIN


def _total(rows: Float[Tensor, "n rank d"], asked: Bool[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Sum of the squared entries of K, in blocks of adapters of which one at least asks for it; zero elsewhere."""
    count, rank, _ = rows.shape
    found = torch.zeros(count, count)
    asked = asked.clone().fill_diagonal_(False)
    for first in range(0, count, BLOCK):
        if asked[first : first + BLOCK].any():
            block = rows[first : first + BLOCK]
            crossed = (block.flatten(0, 1) @ rows.flatten(0, 1).mT).square_().reshape(len(block), rank, count, rank)
            found[first : first + BLOCK] = crossed.sum(1).sum(-1)
    return found


def _stacked(factors: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "n rank d"]:
    """The factors in one float32 array, padded with zero rows; transposed ones stay in their own order in memory."""
    if len({factor.shape for factor in factors}) == 1:
        if all(factor.mT.is_contiguous() for factor in factors):
            return torch.stack([factor.mT for factor in factors]).mT.float()
        return torch.stack(list(factors)).float()
    rows = torch.zeros(len(factors), max(len(factor) for factor in factors), factors[0].shape[1])
    for at, factor in enumerate(factors):
        rows[at, : len(factor)] = factor
    return rows


def _grams(
    rows: Float[Tensor, "n rank d"],
) -> tuple[Float[Tensor, "n rank rank"], Float[Tensor, "n rank d"]]:
    """F F^T of each factor, and the factors, scaled where the squares of their entries would leave float32's range."""
    gram = rows @ rows.mT
    energy = gram.diagonal(dim1=1, dim2=2).sum(1)
    if bool(((energy > LEAST_ENERGY) & (energy < MOST_ENERGY)).all()):
        return gram, rows
    largest = rows.abs().amax((1, 2), keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    return rows @ rows.mT, rows


def _polar(factors: Float[Tensor, "n rank d"]) -> tuple[Float[Tensor, "n rank d"], Bool[Tensor, "n"]]:
    """(F F^T)^{-1/2} F of each factor, where directions without length stay out; and which factors are zero."""
    gram, factors = _grams(factors)
    return inverse_root(gram) @ factors, gram.diagonal(dim1=1, dim2=2).sum(1) == 0


def inverse_root(gram: Float[Tensor, "n rank rank"]) -> Float[Tensor, "n rank rank"]:
    """G^{-1/2} of each positive semidefinite matrix, computed in float64; directions without length give zero.

    Parameters
    ----------
    gram
        n matrices.

    Returns
    -------
    Tensor
        Same shape and dtype.

    Examples
    --------
    >>> inverse_root(torch.diag(torch.tensor([4.0, 0.0]))[None])[0].tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    values, vectors = torch.linalg.eigh(gram.double())
    kept = values > 1e-10 * values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.where(kept, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    return ((vectors * inverse[:, None, :]) @ vectors.mT).to(gram)


def same_initialization(
    factors: Sequence[Float[Tensor, "_ d"]] | Float[Tensor, "adapters rank d"],
) -> Int[np.ndarray, "adapters adapters"]:
    """Say which factors of one module, looked at alone, were initialized from the same values.

    Parameters
    ----------
    factors
        A of several adapters as (rank, d_in), or B^T as (rank, d_out). Ranks may differ.

    Returns
    -------
    ndarray
        int8: 1 where the initialization is shared, 0 where there is no sign of it, -1 where that is unknown: with a
        zero factor, or where a rank below 4 leaves too few entries.

    Examples
    --------
    >>> start = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    >>> other, move = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(1))
    >>> same_initialization([start, start + 0.5 * move, other])[0].tolist()
    [1, 1, 0]
    """
    return marks([initialization_evidence(list(factors))[1]])[0]


def has_initialization(update: LowRankUpdate) -> bool:
    """Say whether the factors can still hold what they were initialized with.

    False where they were split anew from their product by an SVD, as extracted, resized and merged LoRA files are:
    rows of A and columns of B are orthogonal to each other, far more than independent ones are. At rank 1, where the
    norms of the two are equal, or one is 1, to a tenth of a percent.

    Parameters
    ----------
    update
        One adapted matrix.

    Examples
    --------
    >>> A, B = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), torch.ones(32, 4)
    >>> has_initialization(LowRankUpdate(A, B)), has_initialization(LowRankUpdate(A, A.T.contiguous()).balanced())
    (True, False)
    """
    norms = [update.A.norm().item(), update.B.norm().item()]
    if not all(norms):
        return True
    if update.rank == 1:
        ratios = [norms[0] / norms[1], *norms]
        return not any(abs(ratio - 1) < 1e-3 for ratio in ratios)
    return not (_orthogonal(update.A) and _orthogonal(update.B.mT))


def _with_initialization(
    updates: Mapping[int, LowRankUpdate], gram: Float[Tensor, "n rank rank"] | None = None
) -> dict[int, LowRankUpdate]:
    """Those of many updates for which `has_initialization` holds; rows of A far from orthogonal settle it for most.

    `gram` holds A A^T of each update, in order, where that is known.
    """
    indices = list(updates)
    if gram is not None:
        doubtful = _perhaps_split(gram, updates)
    else:
        doubtful = set()
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index in indices:
            by_shape.setdefault(tuple(updates[index].A.shape), []).append(index)
        for alike in by_shape.values():
            found, _ = _grams(_stacked([updates[index].A for index in alike]))
            doubtful |= _perhaps_split(found.double(), {index: updates[index] for index in alike})
    return {i: update for i, update in updates.items() if i not in doubtful or has_initialization(update)}


def _perhaps_split(gram: Float[Tensor, "n rank rank"], updates: Mapping[int, LowRankUpdate]) -> set[int]:
    """Those of which A A^T is so near diagonal, or so small, that an SVD may have made the factors."""
    ranks = torch.tensor([update.rank for update in updates.values()])
    size = torch.tensor([update.d_in for update in updates.values()])
    lengths = gram.diagonal(dim1=1, dim2=2)
    # In units of the lengths, off the diagonal: the cosines of the rows.
    crossed = gram.square() / (lengths[:, :, None] * lengths[:, None, :]).clamp_min(1e-60)
    total = crossed.sum((1, 2)) - crossed.diagonal(dim1=1, dim2=2).sum(1)
    limit = ranks * (ranks - 1) * (SCREENED * ORTHOGONAL) ** 2 / size
    return {index for index, far in zip(updates, (total > limit).tolist(), strict=True) if not far}


def _orthogonal(rows: Float[Tensor, "rank d"]) -> bool:
    rows = rows / rows.norm()
    gram = (rows @ rows.mT).numpy().astype(np.float64)
    lengths = np.sqrt(gram.diagonal().clip(1e-30))
    crossed = gram / np.outer(lengths, lengths)
    np.fill_diagonal(crossed, 0.0)
    rank, size = rows.shape
    return math.sqrt((crossed**2).sum() / (rank * (rank - 1))) < ORTHOGONAL / math.sqrt(size)


def random_factors(adapter: Adapter, modules: Iterable[str] | None = None) -> dict[str, frozenset[Factor]]:
    """Say which factors of each module were initialized at random: {"A"} for the usual LoRA.

    What is recorded decides where there is anything: the initial factors (those that are not zero), then the
    initialization that the config names, then the default of the library that wrote the file. Otherwise the spectra
    do. A factor that was zero at first holds the gradients' few directions; one that was random keeps nearly equal
    singular values. The participation (sum s^2)^2 / (rank sum s^4), at most 1, is taken as a median over modules. A was
    random unless the participation of B is the higher and above 0.6; both were where both are above 0.6 and B's is at
    least 0.9 of A's.

    Parameters
    ----------
    adapter
        The trained adapter.
    modules
        Modules to answer for; all of the adapter's by default.

    Returns
    -------
    dict
        Module -> the factors.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> start, ones = torch.randn(4, 64, generator=generator), torch.ones(32, 4)
    >>> random_factors(Adapter.from_factors({"q": (start, ones)}))
    {'q': frozenset({'A'})}
    """
    found: dict[str, frozenset[Factor]] = {}
    told: frozenset[Factor] | None = None
    for module in adapter if modules is None else modules:
        known = known_laws(adapter.metadata, module)
        if adapter.initial is not None and module in adapter.initial:
            update = adapter.initial[module]
            nonzero: dict[Factor, bool] = {"A": bool(update.A.any()), "B": bool(update.B.any())}
            found[module] = frozenset(factor for factor in FACTORS if nonzero[factor])
        elif known is not None:
            found[module] = frozenset(factor for factor in FACTORS if known.law(factor) != "zero")
        else:
            told = _flat_factors(adapter) if told is None else told
            found[module] = told
    return found


def _flat_factors(adapter: Adapter) -> frozenset[Factor]:
    names = list(adapter)
    chosen = names[:: math.ceil(len(names) / MOST_MODULES) or 1]
    updates = [adapter.view(module) for module in chosen if adapter.source(module).rank > 1]
    if not updates:
        return frozenset({"A"})
    of_A = np.median(_participations([update.A for update in updates]))
    of_B = np.median(_participations([update.B.mT for update in updates]))
    if of_A >= FLAT and of_B >= max(FLAT, 0.9 * of_A):
        return frozenset({"A", "B"})
    return frozenset({"B"}) if of_B > of_A and of_B >= FLAT else frozenset({"A"})


def _participations(factors: Sequence[Tensor]) -> list[float]:
    """(sum s^2)^2 / (rank sum s^4) of each factor's singular values s; 0 for a zero factor."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for factor in factors:
        by_shape.setdefault(factor.shape, []).append(factor)
    found: list[float] = []
    for alike in by_shape.values():
        gram = _grams(torch.stack(alike))[0].double()
        total = gram.diagonal(dim1=1, dim2=2).sum(1)
        squares = gram.square().sum((1, 2)) * gram.shape[1]
        found += torch.where(total > 0, total.square() / squares, 0.0).tolist()
    return found


def module_evidence(
    updates: Mapping[int, LowRankUpdate],
    randomly: Mapping[int, frozenset[Factor]],
    count: int,
    known: Mapping[Factor, PairSums] | None = None,
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

    Returns
    -------
    dict
        Each factor that was initialized at random in two adapters or more -> cosine and evidence as in
        `initialization_evidence`, count x count. A factor that was random in only one of two adapters is no shared
        initialization (level 0); sizes that differ, or factors that an SVD split, are not comparable.
    """
    asked = [factor for factor in FACTORS if sum(factor in randomly[index] for index in updates) > 1]
    gram = known["A"].gram if known and "A" in known else None
    held = _with_initialization(updates, gram) if asked else {}
    order = {index: place for place, index in enumerate(updates)}
    found = {}
    for factor in asked:
        sums = (known or {}).get(factor)
        found[factor] = _pairs_evidence(held, randomly, factor, count, order, sums)
    return found


def _pairs_evidence(
    held: Mapping[int, LowRankUpdate],
    randomly: Mapping[int, frozenset[Factor]],
    factor: Factor,
    count: int,
    order: Mapping[int, int],
    known: PairSums | None,
) -> tuple[Float[np.ndarray, "n n"], Evidence]:
    cosine = np.full((count, count), np.nan, dtype=np.float32)
    trace, square = np.full((2, count, count), np.nan, dtype=np.float16)  # as comparisons keep them
    level = np.full((count, count), INCOMPARABLE, dtype=np.int8)
    apart = [index for index in held if factor not in randomly[index]]
    factors = {index: u.A if factor == "A" else u.B.mT for index, u in held.items() if factor in randomly[index]}
    members = list(factors)
    if apart:
        level[np.ix_(apart, members)] = level[np.ix_(members, apart)] = NONE
    for size in {factors[index].shape[1] for index in members}:
        alike = [index for index in members if factors[index].shape[1] == size]
        grid = (slice(None), slice(None)) if len(alike) == count else np.ix_(alike, alike)
        if known is None:
            cosine[grid], found = initialization_evidence([factors[index] for index in alike])
        else:
            ranks = torch.tensor([len(factors[index]) for index in alike])
            sums = known.of([order[index] for index in alike])
            zero = torch.zeros(len(alike), dtype=torch.bool)
            cosine[grid], found = _judged(sums.trace, sums.square, sums.total, ranks, size, zero)
        trace[grid], square[grid], level[grid] = found.trace, found.square, found.level
    return cosine, Evidence(trace, square, level)
