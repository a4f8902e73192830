"""Factors that were made from others hold no initialization: by an SVD of their product, or as a difference.

Extracted, resized and merged LoRA files are made by an SVD: rows of A and columns of B are orthogonal to each other.
PEFT turns an adapter that began at B0 A0 (PiSSA, OLoRA, ...) into one for the original base weights by putting the two
side by side, B = [B1, -B0] and A = [A1; A0], and records the default initialization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.polar_factors import row_grams
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["has_initialization", "lost_initialization", "with_initialization"]

SCREENED = 1.1  # times the limit: rows further from orthogonal need no second look
ORTHOGONAL = (0.05, 0.5)  # cosines of rows, over 1/sqrt(d), below which an SVD made the factors: least and most limit
RARE = 1e-3  # probability that the cosines of independent rows are below the limit, between these
LEAST_CLIPPED, MOST_CLIPPED = 8, 0.2  # number of entries, and share of them, that clipping cuts off at one size
CLIPPED = 10  # times as many as have the next size
ALIKE = 0.5  # cosine of both halves above which a factor holds a difference; unrelated ones have one near zero


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


def lost_initialization(update: LowRankUpdate) -> str:
    """Why the factors cannot hold what they were initialized with, or "".

    Parameters
    ----------
    update
        One adapted matrix.

    Examples
    --------
    >>> A, B = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), torch.ones(32, 4)
    >>> lost_initialization(LowRankUpdate(A, B))
    ''
    >>> lost_initialization(LowRankUpdate(torch.cat([A, A]), torch.cat([1.1 * B, -B], dim=1)))
    'the factors hold a difference of two adapters, as PEFT converts PiSSA and others: they began elsewhere'
    """
    if not has_initialization(update):
        return "the factors were split anew from their product by an SVD: the initialization is lost"
    if _difference(update):
        return "the factors hold a difference of two adapters, as PEFT converts PiSSA and others: they began elsewhere"
    if _clipped(update.A) or _clipped(update.B):
        return "entries were cut off at one size, as kohya's extraction by an SVD does: the initialization is lost"
    return ""


def _clipped(factor: Float[Tensor, "rows columns"]) -> bool:
    """Whether many entries have exactly the largest size, and far fewer the next one that occurs.

    Rounding gives both as many; after one step by the sign of the gradient nearly all entries have the largest.
    """
    sizes = factor.abs()
    largest = sizes.max()
    below = sizes[sizes < largest]
    count = sizes.numel() - below.numel()
    if not MOST_CLIPPED * sizes.numel() > count >= LEAST_CLIPPED or not below.numel():
        return False
    return count > CLIPPED * int((below == below.max()).sum())


def _difference(update: LowRankUpdate) -> bool:
    """Whether the second half of the rank is the first, with the sign of B changed."""
    half = update.rank // 2
    if update.rank % 2 or not half:
        return False
    cosines = []
    for first, second in (
        (update.A[:half], update.A[half:]),
        (update.B[:, :half], -update.B[:, half:]),
    ):
        lengths = first.norm() * second.norm()
        cosines.append(((first * second).sum() / lengths).item() if lengths else 0.0)
    return min(cosines) > ALIKE


def with_initialization(
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
            found = row_grams([updates[index].A for index in alike]).double()
            doubtful |= _perhaps_split(found, {index: updates[index] for index in alike})
    return {i: update for i, update in updates.items() if i not in doubtful or has_initialization(update)}


def _perhaps_split(gram: Float[Tensor, "n rank rank"], updates: Mapping[int, LowRankUpdate]) -> set[int]:
    """Those of which A A^T is so near diagonal, or so small, that an SVD may have made the factors."""
    ranks = torch.tensor([update.rank for update in updates.values()])
    size = torch.tensor([update.d_in for update in updates.values()])
    lengths = gram.diagonal(dim1=1, dim2=2)
    # In units of the lengths, off the diagonal: the cosines of the rows.
    crossed = gram.square() / (lengths[:, :, None] * lengths[:, None, :]).clamp_min(1e-60)
    total = crossed.sum((1, 2)) - crossed.diagonal(dim1=1, dim2=2).sum(1)
    limits = torch.tensor([_limit(rank) for rank in ranks.tolist()])
    limit = ranks * (ranks - 1) * (SCREENED * limits) ** 2 / size
    return {index for index, far in zip(updates, (total > limit).tolist(), strict=True) if not far}


def _orthogonal(rows: Float[Tensor, "rank d"]) -> bool:
    rows = rows / rows.norm()
    gram = (rows @ rows.mT).numpy().astype(np.float64)
    lengths = np.sqrt(gram.diagonal().clip(1e-30))
    crossed = gram / np.outer(lengths, lengths)
    np.fill_diagonal(crossed, 0.0)
    rank, size = rows.shape
    return math.sqrt((crossed**2).sum() / (rank * (rank - 1))) < _limit(rank) / math.sqrt(size)


@lru_cache(maxsize=1024)
def _limit(rank: int) -> float:
    """Root mean square of the cosines of `rank` rows, over 1/sqrt(d), that independent ones rarely stay below.

    Training on, quantizing or rounding such factors disturbs them: at rank 8 by a quarter of their length at most.
    """
    from scipy.special import chdtri

    pairs = max(rank * (rank - 1) / 2, 1)
    return min(max(math.sqrt(float(chdtri(pairs, 1 - RARE)) / pairs), ORTHOGONAL[0]), ORTHOGONAL[1])
