"""How similar a trained factor is across seeds, before anything is learned about A: it follows from the gradient alone.

With A frozen at random, the first step of B from zero is -eta G A^T, G the gradient of the full weight: a random sketch
of the columns of G. Two such sketches share their leading directions because G does, so B is "similar across seeds"
while the two A are not. With B frozen the roles swap.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.first_step import mean_sketch_overlap
from asym_analysis.least_squares.problem import LeastSquaresProblem

__all__ = ["first_step_similarity", "simulate_first_step_similarity", "trained_similarity"]


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
    gradient
        Gradient of the loss by the full weight, shape (d_out, d_in). For the mirror experiment (B frozen at random, A
        tuned) pass its transpose: the prediction is the same, only chance differs.
    rank
        Of the adapter.
    other
        Gradient of a second task, when the two runs train on different tasks.
    corrected
        Include the first correction to the deterministic equivalent; without it this is (1/r) sum p_i^2 of theory
        notes, section 6.6.

    Notes
    -----
    The random projector onto the columns of G A^T has mean U diag(p) U^T, U the left singular vectors of G and p the
    retention at the spectrum sigma_i^2; independent runs then overlap by (1/r) Tr[E P_1 E P_2].

    Examples
    --------
    >>> gradient = np.diag(np.arange(1.0, 257.0) ** -1)
    >>> round(first_step_similarity(gradient, 8, corrected=False), 3)
    0.476
    """
    vectors, scales = _left_singular(gradient)
    if other is None:
        return mean_sketch_overlap(scales, rank, corrected=corrected)
    other_vectors, other_scales = _left_singular(other)
    cosines = (vectors.T @ other_vectors).square().cpu().numpy()
    return mean_sketch_overlap(scales, rank, other=other_scales, squared_cosines=cosines, corrected=corrected)


def trained_similarity(problem: LeastSquaresProblem, rank: int, tuned: Literal["A", "B"]) -> float:
    """Expected overlap of the fully trained factor between two runs with independent random frozen factors.

    In the linear model B never leaves the column space of its first step, delta covariance Q^T, so its overlap is that
    of the gradient delta · covariance. A does leave it: it starts in the row space of U^T delta covariance and ends in
    that of U^T delta, so with B frozen the input distribution shows after one step and is gone at the end.

    Parameters
    ----------
    problem, rank
        The problem, and the rank of the adapter.
    tuned
        Which factor was trained: "B" or "A".

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(8), torch.ones(8))
    >>> trained_similarity(problem, 2, "B")  # chance
    0.25
    """
    if tuned == "B":
        return first_step_similarity(problem.delta @ problem.covariance, rank)
    return first_step_similarity(problem.delta.T, rank)


def simulate_first_step_similarity(
    gradient: Float[Tensor, "d_out d_in"] | Float[np.ndarray, "d_out d_in"], rank: int, pairs: int, seed: int
) -> Float[np.ndarray, " pairs"]:
    """Overlaps of B after one step, for `pairs` pairs of independent Gaussian A.

    Examples
    --------
    >>> simulate_first_step_similarity(np.eye(8), 8, 2, seed=0).round(12).tolist()
    [1.0, 1.0]
    """
    slope = torch.as_tensor(gradient).to(torch.float64)
    rng = np.random.default_rng(seed)
    overlaps = []
    for _ in range(pairs):
        sketches = torch.from_numpy(rng.standard_normal((2, slope.shape[1], rank)))
        bases, _ = torch.linalg.qr(slope @ sketches)
        overlaps.append(float((bases[0].T @ bases[1]).square().sum()) / rank)
    return np.array(overlaps)


def _left_singular(gradient: Tensor | np.ndarray) -> tuple[Tensor, np.ndarray]:
    vectors, scales, _ = torch.linalg.svd(torch.as_tensor(gradient).to(torch.float64), full_matrices=False)
    return vectors, scales.cpu().numpy()
