"""How often one random frozen factor gains more than the other, from draws of both gains."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.vocabulary import Factor

__all__ = ["gains_of_one_direction", "share_of_wins"]

DRAWS = 2**14  # of the direction: a standard error of .004 of a share at most
MOST_WEIGHTS = 2**19  # of an update, for which drawing takes half a second


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


def gains_of_one_direction(problem: LeastSquaresProblem, rank: int, tuned: Factor) -> Float[np.ndarray, "draws"] | None:
    """Gains, as parts of the signal, where the frozen factor keeps or leaves out a single direction.

    With M the weighted update, a frozen B of d_out - 1 columns loses ||n^T M||^2 for a random unit vector n. A frozen A
    with one row fewer than the covariance has directions loses ||M n||^2 for n along S^(-1/2) z with a Gaussian z. At
    rank 1 these are gained, for n along S^(1/2) z. No Beta distribution has the shape of such a ratio where a few
    directions of the inputs are far weaker or stronger than the others.

    Parameters
    ----------
    problem, rank
        The problem, and the rank of the update.
    tuned
        The trained factor; the other is frozen.

    Returns
    -------
    ndarray or None
        Draws with a fixed seed; None at any other rank, and at rank 1 for inputs of one variance, where a Beta
        distribution has the shape, or more than half a million weights.

    Examples
    --------
    >>> import torch
    >>> problem = LeastSquaresProblem(torch.eye(3), torch.ones(3))
    >>> gains_of_one_direction(problem, 2, "A").round(6).max(), gains_of_one_direction(problem, 1, "A")
    (np.float64(0.666667), None)
    """
    M = problem.weighted_delta.cpu().numpy()
    known = problem.eigenvalues.cpu().numpy()
    M, known = M[:, known > 0], known[known > 0]
    if tuned == "A":
        M, known, even = M.T, np.ones(problem.d_out), known.max(initial=0.0) <= known.min(initial=np.inf) * (1 + 1e-9)
    else:
        even = known.max(initial=0.0) <= known.min(initial=np.inf) * (1 + 1e-9)
    lost = len(known) == rank + 1
    if not lost and (rank > 1 or len(known) < 2 or even or M.size > MOST_WEIGHTS):
        return None
    scales = known ** (-0.5 if lost else 0.5)
    ways = np.random.default_rng(0).standard_normal((DRAWS, len(scales))) * (scales / scales.max())
    energy = np.square(ways @ M.T).sum(1) / np.square(ways).sum(1) / problem.signal
    return 1 - energy if lost else energy
