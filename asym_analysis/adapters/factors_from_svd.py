"""Factors that an SVD made from their product hold no initialization.

Extracted, resized and merged LoRA files are made so: rows of A and columns of B are orthogonal to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.polar_factors import grams, stacked
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["has_initialization", "with_initialization"]

SCREENED = 2.0  # times the next number: rows further from orthogonal need no second look
ORTHOGONAL = 0.05  # cosines of rows, over 1/sqrt(d), below which the factors were split by an SVD


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
            found, _ = grams(stacked([updates[index].A for index in alike]))
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
