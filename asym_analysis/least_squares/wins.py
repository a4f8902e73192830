"""How often one random frozen factor gains more than the other, from draws of both gains."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.vocabulary import Factor

__all__ = ["gains_with_one_direction_lost", "share_of_wins"]

DRAWS = 2**14  # of the lost direction: a standard error of .004 of a share at most


def share_of_wins(gain_B: Float[np.ndarray, "n"], gain_A: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Share of all pairs in which the first gain is the larger, ties counting one half, and its standard error.

    Parameters
    ----------
    gain_B, gain_A
        Gains as parts of the signal; equal up to rounding is a tie, for where both are certain rounding would decide.

    Returns
    -------
    tuple
        The share, and the standard error of the Mann-Whitney statistic with each sample's variability.

    Examples
    --------
    >>> share_of_wins(np.array([0.5, 0.7]), np.array([0.5]))[0]
    0.75
    """
    gain_B, gain_A = gain_B.round(10), gain_A.round(10)
    wins_of_B = _ranks(np.sort(gain_A), gain_B) / len(gain_A)
    losses_of_A = 1 - _ranks(np.sort(gain_B), gain_A) / len(gain_B)
    error = math.sqrt(wins_of_B.var() / len(gain_B) + losses_of_A.var() / len(gain_A))
    return float(wins_of_B.mean()), error


def _ranks(ordered: Float[np.ndarray, "m"], values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    below, through = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + through) / 2


def gains_with_one_direction_lost(
    problem: LeastSquaresProblem, rank: int, tuned: Factor
) -> Float[np.ndarray, "draws"] | None:
    """Gains, as parts of the signal, where the frozen factor leaves out a single direction.

    With M the weighted update, a frozen B of d_out - 1 columns loses ||n^T M||^2 for a random unit vector n. A frozen A
    with one row fewer than the covariance has directions loses ||M n||^2 for n along S^(-1/2) z with a Gaussian z. No
    Beta distribution has the shape of such a ratio where a few directions of the inputs are far weaker than the others.

    Parameters
    ----------
    problem, rank
        The problem, and the rank of the update.
    tuned
        The trained factor; the other is frozen.

    Returns
    -------
    ndarray or None
        Draws with a fixed seed; None at any other rank.

    Examples
    --------
    >>> import torch
    >>> problem = LeastSquaresProblem(torch.eye(3), torch.ones(3))
    >>> gains_with_one_direction_lost(problem, 2, "A").round(6).max(), gains_with_one_direction_lost(problem, 1, "A")
    (np.float64(0.666667), None)
    """
    M = problem.weighted_delta.cpu().numpy()
    if tuned == "A":
        M, scales = M.T, np.ones(problem.d_out)
    else:
        known = problem.eigenvalues.cpu().numpy()
        M, scales = M[:, known > 0], known[known > 0] ** -0.5
        scales = scales / scales.max()
    if len(scales) != rank + 1:
        return None
    lost = np.random.default_rng(0).standard_normal((DRAWS, len(scales))) * scales
    energy = np.square(lost @ M.T).sum(1) / np.square(lost).sum(1)
    return 1 - energy / problem.signal
