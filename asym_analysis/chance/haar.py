"""Exact moments of traces under a uniformly random rotation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["captured_energy_moments", "rotated_trace_moments"]

Number = float | Float[np.ndarray, "n"]


def rotated_trace_moments(
    trace: Number, square_trace: Number, other_trace: Number, other_square_trace: Number, dimension: int
) -> tuple[Number, Number]:
    """Mean and variance of Tr[C Q C' Q^T] for a uniformly random rotation Q of R^dimension.

    Parameters
    ----------
    trace, square_trace : float or array of shape (n,)
        Tr C and Tr C^2 of the first symmetric matrix; numbers, or arrays of shape (n,) for n pairs.
    other_trace, other_square_trace : float or array of shape (n,)
        Tr C' and Tr C'^2 of the second.
    dimension : int
        Of the space.

    Returns
    -------
    tuple
        Mean Tr C Tr C' / d, and variance 2 [Tr C^2 - (Tr C)^2 / d] [Tr C'^2 - (Tr C')^2 / d] / ((d-1) (d+2)).

    References
    ----------
    docs/theory.md, sections 1.2 (e) and 4.2.

    Examples
    --------
    >>> [round(float(moment), 4) for moment in rotated_trace_moments(2.0, 2.0, 2.0, 2.0, 4)]  # two planes in R^4
    [1.0, 0.1111]
    """
    d = dimension
    mean = trace * other_trace / d
    if d == 1:
        return mean, 0.0 * mean
    spread, other_spread = (
        np.maximum(0.0, squares - total**2 / d)
        for total, squares in ((trace, square_trace), (other_trace, other_square_trace))
    )
    return mean, 2 * spread * other_spread / ((d - 1) * (d + 2))


def captured_energy_moments(
    gram_trace: float, gram_square_trace: float, dimension: int, rank: int
) -> tuple[float, float]:
    """Mean and variance of Tr[U^T K U], U uniform among orthonormal frames of shape (dimension, rank).

    Parameters
    ----------
    gram_trace, gram_square_trace : float
        Tr K and Tr K^2 of the symmetric matrix K.
    dimension, rank : int
        Of the space, and of the random subspace.

    Returns
    -------
    tuple
        Mean (r/d) Tr K, and variance 2 r (d-r) / (d (d-1) (d+2)) · [Tr K^2 - (Tr K)^2 / d].

    References
    ----------
    docs/theory.md, section 1.2 (e).

    Examples
    --------
    >>> captured_energy_moments(4.0, 4.0, 4, 2)  # the identity: no variance
    (2.0, 0.0)
    """
    rank = min(rank, dimension)
    mean, variance = rotated_trace_moments(gram_trace, gram_square_trace, float(rank), float(rank), dimension)
    return float(mean), float(variance)
