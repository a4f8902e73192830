"""How similar a trained factor is across seeds, before anything is learned about A: it follows from the gradient alone.

With A frozen at random, the first step of B from zero is -eta G A^T, G the gradient of the full weight: a random sketch
of the columns of G. Two such sketches share their leading directions because G does, so B is "similar across seeds"
while the two A are not. With B frozen the roles swap.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.first_step import mean_sketch_overlap
from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.vocabulary import FACTORS, Factor, choose, whole

__all__ = [
    "first_step_similarity",
    "simulate_first_step_similarity",
    "simulate_trained_similarity",
    "trained_similarity",
]


def first_step_similarity(
    gradient: Float[Tensor, "d_out d_in"] | Float[np.ndarray, "d_out d_in"],
    rank: int,
    *,
    other: Float[Tensor, "d_out other_d_in"] | Float[np.ndarray, "d_out other_d_in"] | None = None,
    corrected: bool = True,
) -> float:
    """Expected overlap of B after one step, between two runs with independent random A.

    The overlap is the mean squared cosine of the principal angles, 1 for equal subspaces and rank / d_out by chance.

    Parameters
    ----------
    gradient : float Tensor or array of shape (d_out, d_in)
        Gradient of the loss by the full weight, shape (d_out, d_in). For the mirror experiment (B frozen at random, A
        trained) pass its transpose: the prediction is the same, only chance differs.
    rank : int
        Of the adapter.
    other : float Tensor of shape (d_out, other_d_in) or float array, optional
        Gradient of a second task, when the two runs train on different tasks.
    corrected : bool, default True
        Include the first correction to the deterministic equivalent; without it this is (1/r) sum p_i^2.

    Returns
    -------
    float
        As in `asym_analysis.chance.mean_sketch_overlap`.

    Raises
    ------
    ValueError
        If `rank` is not a positive whole number, or a gradient is zero.

    References
    ----------
    docs/theory.md, section 6.6.

    Examples
    --------
    >>> gradient = np.diag(np.arange(1.0, 257.0) ** -1)
    >>> round(first_step_similarity(gradient, 8, corrected=False), 3)
    0.476
    """
    rank = whole(rank, "rank", least=1)
    vectors, scales = _left_singular(gradient)
    if other is None:
        return mean_sketch_overlap(scales, rank, corrected=corrected)
    other_vectors, other_scales = _left_singular(other)
    cosines = (vectors.T @ other_vectors).square().cpu().numpy()
    return mean_sketch_overlap(scales, rank, other=other_scales, squared_cosines=cosines, corrected=corrected)


def trained_similarity(problem: LeastSquaresProblem, rank: int, tuned: Factor) -> float:
    """Expected overlap of the fully trained factor between two runs with independent random frozen factors.

    In the linear model B never leaves the column space of its first step, delta covariance Q^T, so its overlap is that
    of the gradient delta · covariance. A does leave it: its first step lies in the row space of U^T delta covariance,
    and it ends in that of U^T delta, so with B frozen the input distribution shows after one step and is gone at the
    end.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        The problem, and the rank of the adapter.
    tuned : {"A", "B"}
        Which factor was trained: "B" or "A".

    Returns
    -------
    float
        As in `first_step_similarity`.

    Raises
    ------
    ValueError
        If `tuned` is neither, or the rank is not possible.

    References
    ----------
    docs/theory.md, section 6.6.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(8), torch.ones(8))
    >>> round(trained_similarity(problem, 2, "B"), 6)  # chance
    0.25
    """
    choose(tuned, FACTORS, "tuned")
    check_rank(problem, rank, tuned)
    if tuned == "B":
        return first_step_similarity(problem.delta @ problem.covariance, rank)
    return first_step_similarity(problem.delta.T, rank)


def simulate_first_step_similarity(
    gradient: Float[Tensor, "d_out d_in"] | Float[np.ndarray, "d_out d_in"], rank: int, pairs: int = 200, seed: int = 0
) -> Float[np.ndarray, " pairs"]:
    """Overlaps of B after one step, for pairs of independent Gaussian A.

    Parameters
    ----------
    gradient : float Tensor or array of shape (d_out, d_in)
        Shape (d_out, d_in), of rank at least `rank`.
    rank, pairs, seed : int, optional
        Of the adapter; how many pairs; of the random numbers.

    Returns
    -------
    array
        Shape (pairs,).

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> simulate_first_step_similarity(np.eye(8), 8, 2, seed=0).round(12).tolist()
    [1.0, 1.0]
    """
    slope = torch.as_tensor(gradient).to(torch.float64)
    rank, pairs = whole(rank, "rank", least=1, most=min(slope.shape)), whole(pairs, "pairs", least=1)
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    sketches = (torch.from_numpy(rng.standard_normal((2, slope.shape[1], rank))) for _ in range(pairs))
    return np.array([_overlap(*(slope @ sketch)) for sketch in sketches])


def simulate_trained_similarity(
    problem: LeastSquaresProblem, rank: int, tuned: Factor, pairs: int = 200, seed: int = 0
) -> Float[np.ndarray, " pairs"]:
    """Overlaps of the fully trained factor, for pairs of independent random frozen factors.

    Parameters
    ----------
    problem, rank, tuned : LeastSquaresProblem, int or {"A", "B"}
        As in `trained_similarity`.
    pairs, seed : int, optional
        How many pairs; of the random numbers.

    Returns
    -------
    array
        Shape (pairs,).

    Raises
    ------
    ValueError
        If `tuned` is neither "A" nor "B", or a number is out of range.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
    >>> simulate_trained_similarity(problem, 2, "A", 1).round(12).tolist()
    [1.0]
    """
    choose(tuned, FACTORS, "tuned")
    check_rank(problem, rank, tuned)
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    size = problem.d_in if tuned == "B" else problem.d_out
    overlaps = []
    for _ in range(whole(pairs, "pairs", least=1)):
        frozen = rng.standard_normal((2, rank, size))
        fits = (problem.freeze_A(f).B if tuned == "B" else problem.freeze_B(f.T).A.T for f in frozen)
        overlaps.append(_overlap(*fits))
    return np.array(overlaps)


def _overlap(one: Float[Tensor, "d rank"], other: Float[Tensor, "d rank"]) -> float:
    bases = [torch.linalg.qr(columns)[0] for columns in (one, other)]
    return float((bases[0].T @ bases[1]).square().sum()) / one.shape[1]


def _left_singular(gradient: Tensor | np.ndarray) -> tuple[Tensor, np.ndarray]:
    vectors, scales, _ = torch.linalg.svd(torch.as_tensor(gradient).to(torch.float64), full_matrices=False)
    return vectors, scales.cpu().numpy()
