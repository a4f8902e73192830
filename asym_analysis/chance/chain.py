"""A chain of random projections: what is left of a signal after several random A in a row."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from asym_analysis.chance.retention import random_retention

__all__ = ["chain_residual"]


def chain_residual(
    spectrum: Float[np.ndarray, " d"], energy: Float[np.ndarray, " d"], rank: int, blocks: int
) -> tuple[Float[np.ndarray, " blocks"], Float[np.ndarray, " blocks"]]:
    """Expected signal that is left after each of several blocks, each with its own random A of that rank.

    Every block removes the part of the remaining signal that its random A retains; the next one is drawn anew.

    Parameters
    ----------
    spectrum : float array of shape (d,)
        Eigenvalues of the input covariance, shape (d,), any order; zeros allowed.
    energy : float array of shape (d,)
        Signal in each input component, m_i, shape (d,); zero where the spectrum is.
    rank, blocks : int
        Rows of each A, and how many there are.

    Returns
    -------
    tuple
        The signal left after each block, shape (blocks,), and its stated error, zero where it is exact.

    Raises
    ------
    ValueError
        If `rank` or `blocks` is not positive.

    Notes
    -----
    Exactly (1 - r/d)^t for a flat spectrum. Otherwise the energies follow K_i <- K_i (1 - 2 p_i) + p_i^2 K_i +
    (w_i / D) sum_k w_k K_k, with w = p (1 - p) and D = sum w: the diagonal of E[(1 - P) K (1 - P)]. Since P is a
    projector its sum is also K · (1 - p), which is the more accurate value and is kept; the difference of the two is
    part of the stated error. In 128 simulated settings (power laws 0.5 to 2, spikes of 10 and 100, an exponential;
    alignments -1 to 2; ranks 1 to 8; ten blocks) no measured error exceeded the stated one by more than three standard
    errors.

    References
    ----------
    docs/theory.md, section 6.9.

    Examples
    --------
    >>> left, error = chain_residual(np.ones(8), np.ones(8) / 8, 2, 3)
    >>> left.round(6).tolist(), error.tolist()
    ([0.75, 0.5625, 0.421875], [0.0, 0.0, 0.0])
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks}: a chain has at least one block")
    retention = random_retention(spectrum, rank)
    kept, equivalent = retention.mean, retention.equivalent
    weights = equivalent * (1 - equivalent)
    total_weight = weights.sum()
    current = np.asarray(energy, dtype=np.float64)
    left, errors, error, mismatch = [], [], 0.0, 0.0
    for _ in range(blocks):
        before = current.sum()
        total = float(current @ (1 - kept))
        if before <= 0 or total <= 0 or total_weight <= 0:
            current, error = np.zeros_like(current), 0.0
        else:
            spread = weights * (weights @ current) / total_weight
            following = np.maximum(current * (1 - 2 * kept) + equivalent**2 * current + spread, 0.0)
            error = error * total / before + float(current @ retention.error) + mismatch
            mismatch = abs(following.sum() - total) if retention.method != "exact" else 0.0
            current = following * (total / following.sum())
        left.append(float(current.sum()))
        errors.append(error)
    return np.array(left), np.array(errors)
