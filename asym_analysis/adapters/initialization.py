"""The rule for "did these adapters share an initialization?", from the evidence of all modules.

A factor of rank 1 has no entries off the diagonal of K (see `initialization_evidence`), and two independent runs on one
task may well converge to one direction, up to its sign. But the signs of independent runs are independent fair coins,
for every row of every module. With S the sum of the diagonals K_kk over rows and modules and Q that of their squares,
S/sqrt(Q) is a normalized Rademacher sum: P(S/sqrt(Q) > 4.5) < 1.1e-5, whatever the K_kk [1]_ (2^-24 where 24 of them
are equal). Where that is exceeded the pair shares an initialization, and weaker evidence marks its modules.
Where the rows of some module are reversed, no module is believed by itself: whatever ordered the rows aligns them up to
their signs, in independent runs of one task too.

A pair is said not to share one only where that is ruled out, by the module alone or by all modules without a clear sign
of one together: a run initializes its modules in one way. Where neither has the power, as in one module of rank 1 or 2
that moved by its own length, it cannot be told.

References
----------
.. [1] V. Bentkus and D. Dzindzalieta, A tight Gaussian bound for weighted sums of Rademacher random variables,
   Bernoulli 21 (2015), theorem 1.1: P(S > x sqrt(Q)) is at most 3.18 times the normal tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from asym_analysis.adapters.initialization_evidence import (
    CERTAIN,
    INCOMPARABLE,
    KEPT,
    LONE,
    REVERSED,
    RULED_OUT,
    SUGGESTED,
    Evidence,
    initialization_evidence,
)
from asym_analysis.lazy_torch import Tensor

__all__ = ["marks", "same_initialization"]

POOLED = 4.5  # of the sum over all modules; 24 modules of rank 1 can pass it
AGAINST = 3.0  # of the same sum, below half of what a shared initialization leaves


def marks(evidence: Sequence[Evidence]) -> Int[np.ndarray, "modules ..."]:
    """Decide from the evidence of all modules in which of them each pair shares its initialization.

    Parameters
    ----------
    evidence
        Of the same factor and pairs, one a module.

    Returns
    -------
    ndarray
        int8, one row a module: 1 where the initialization is shared, 0 where that is ruled out, -1 where it cannot be
        told or the module is not comparable. A module that rules it out by itself cannot be told where the signs of
        all modules that are not certain, taken together, point to a shared initialization.
    """
    level = np.stack([one.level for one in evidence])
    trace, square, expected = (
        np.stack([getattr(one, name) for one in evidence]).astype(float) for name in ("trace", "square", "expected")
    )
    pooled = np.nansum(trace, axis=0) > POOLED * np.sqrt(np.nansum(square, axis=0))
    certain = (level == CERTAIN) & ~(level == REVERSED).any(axis=0)
    uncertain = (level != INCOMPARABLE) & ~certain
    total, spread = (np.nansum(part, axis=0, where=uncertain) for part in (trace, square))
    undecided = total > POOLED * np.sqrt(spread)
    telling = uncertain & np.isfinite(expected)
    against = (
        np.nansum(trace, axis=0, where=telling) + AGAINST * np.sqrt(np.nansum(square, axis=0, where=telling))
        < KEPT * np.nansum(expected, axis=0, where=telling)
    )  # fmt: skip
    ruled_out = ((level == RULED_OUT) | ((level > RULED_OUT) & (level <= LONE) & against)) & ~undecided
    shared = certain | (pooled & (level >= SUGGESTED))
    return np.where(shared, 1, np.where(ruled_out, 0, -1)).astype(np.int8)


def same_initialization(
    factors: Sequence[Float[Tensor, "_ d"]] | Float[Tensor, "adapters rank d"],
    growth: Sequence[float] | None = None,
) -> Int[np.ndarray, "adapters adapters"]:
    """Say which factors of one module, looked at alone, were initialized from the same values.

    Parameters
    ----------
    factors
        A of several adapters as (rank, d_in), or B^T as (rank, d_out). Ranks may differ.
    growth
        Squared length of each factor over that of its initialization. Nothing is ruled out where it is NaN, which is
        the default.

    Returns
    -------
    ndarray
        int8: 1 where the initialization is shared, 0 where that is ruled out, -1 where it is unknown: with a zero
        factor, or where the rank leaves too few entries.

    Examples
    --------
    >>> import torch
    >>> start = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    >>> other, move = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(1))
    >>> same_initialization([start, start + 0.5 * move, other], growth=[1.0, 1.25, 1.0])[0].tolist()
    [1, 1, 0]
    """
    return marks([initialization_evidence(list(factors), growth)[1]])[0]
