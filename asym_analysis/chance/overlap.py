"""How similar independent random subspaces are: exact moments, and a tail that matches them.

The overlap of two independent, uniformly distributed subspaces of dimensions p and q in R^d has exact moments. Its tail
is that of a Beta distribution with the same two moments: exact for p = q = 1, and within a few per cent of the
simulated 99% point elsewhere (docs/theory.md, section 4.2).
"""

from __future__ import annotations

from asym_analysis.chance.haar import captured_energy_moments
from asym_analysis.chance.null import BetaNull

__all__ = ["overlap_null"]


def overlap_null(p: int, q: int, d: int) -> BetaNull:
    """The overlap, T / min(p, q) with T the sum of squared cosines, between random subspaces of R^d.

    Parameters
    ----------
    p, q : int
        Dimensions of the two subspaces.
    d : int
        Dimension of the space.

    Returns
    -------
    BetaNull
        With the exact moments E T = pq/d and Var T = 2pq(d-p)(d-q) / (d^2 (d-1)(d+2)); its support starts at p + q - d
        where the two subspaces must meet.

    Raises
    ------
    ValueError
        If p or q is not between 1 and d.

    References
    ----------
    docs/theory.md, section 4.2.

    Examples
    --------
    >>> null = overlap_null(8, 8, 1024)
    >>> round(null.mean, 7), round(null.std, 6)
    (0.0078125, 0.00137)
    """
    if not (1 <= p <= d and 1 <= q <= d):
        raise ValueError(f"subspaces of dimensions {p} and {q} do not exist in R^{d}: both must be from 1 to {d}")
    least = min(p, q)
    # T is the energy that a random subspace of dimension p captures of the projector onto the other.
    mean, variance = captured_energy_moments(float(q), float(q), d, p)
    return BetaNull(mean=mean / least, std=variance**0.5 / least, low=max(0, p + q - d) / least)
