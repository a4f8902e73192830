"""Gradient descent with one factor frozen: its rate, its path, and what the scale of the frozen factor does to it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.least_squares.problem import LeastSquaresProblem

__all__ = ["condition_number", "descent_path", "initialization_scales"]


def descent_path(
    problem: LeastSquaresProblem,
    *,
    learning_rate: float,
    steps: int,
    A: Float[Tensor, "rank d_in"] | None = None,
    B: Float[Tensor, "d_out rank"] | None = None,
) -> Float[np.ndarray, " steps_and_one"]:
    """Loss along gradient descent from zero on the factor that is not given, in closed form.

    Parameters
    ----------
    problem
        The least-squares problem; descent follows half its loss.
    learning_rate, steps
        Of plain gradient descent.
    A, B
        The frozen factor: give one of the two.

    Returns
    -------
    array
        Losses before the first step and after each of `steps` steps.

    Raises
    ------
    ValueError
        Both factors or neither are given.

    Notes
    -----
    Theory notes, section 6.5: B_t = B* (I - (I - eta Q covariance Q^T)^t), so the loss decays along the eigenvectors of
    Q covariance Q^T. With B = U frozen it decays along pairs of an input component and an eigenvector of U^T U, at the
    product of the two eigenvalues.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
    >>> descent_path(problem, learning_rate=0.5, steps=2, A=torch.tensor([[1.0, 0.0]])).tolist()
    [2.0, 1.25, 1.0625]
    """
    times = torch.arange(steps + 1, dtype=torch.float64)
    if (A is None) == (B is None):
        raise ValueError("give the frozen factor: either A or B")
    if A is not None:
        frozen = A.to(problem.delta) @ problem.eigenvectors * problem.eigenvalues.sqrt()
        _, scales, right = torch.linalg.svd(frozen, full_matrices=False)
        rates = scales.square()
        energy = (problem.weighted_delta @ right.T).square().sum(0)
    else:
        assert B is not None
        left, scales, _ = torch.linalg.svd(B.to(problem.delta), full_matrices=False)
        rates = torch.outer(scales.square(), problem.eigenvalues).flatten()
        energy = (left.T @ problem.weighted_delta).square().flatten()
    # Every direction decays on its own: its part of the loss shrinks by (1 - eta · rate)^2 a step.
    decay = (1 - learning_rate * rates).abs()[None, :] ** (2 * times[:, None])
    floor = problem.irreducible + max(0.0, problem.signal - float(energy.sum()))
    return (floor + decay.to(energy) @ energy).cpu().numpy()


def condition_number(
    problem: LeastSquaresProblem,
    *,
    A: Float[Tensor, "rank d_in"] | None = None,
    B: Float[Tensor, "d_out rank"] | None = None,
) -> float:
    """Condition number of the training problem when that factor is frozen: steps needed grow in proportion.

    A frozen A leaves the r x r sketch A covariance A^T, a random one of which is far better conditioned than the
    covariance; a frozen orthonormal B leaves the covariance's own condition number. Directions without variance do not
    count.

    Notes
    -----
    Theory notes, section 6.5.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.tensor([4.0, 1.0]))
    >>> condition_number(problem, B=torch.eye(2)), condition_number(problem, A=torch.ones(1, 2))
    (4.0, 1.0)
    """
    if (A is None) == (B is None):
        raise ValueError("give the frozen factor: either A or B")
    if A is not None:
        scales = torch.linalg.svdvals(A.to(problem.delta) @ problem.eigenvectors * problem.eigenvalues.sqrt())
        kept = scales[scales > scales[0] * 1e-12].square()
        return float(kept[0] / kept[-1])
    assert B is not None
    scales = torch.linalg.svdvals(B.to(problem.delta)).square()
    kept = problem.eigenvalues[problem.eigenvalues > 0]
    return float(scales[0] / scales[-1] * kept[0] / kept[-1])


def initialization_scales(d_out: int, rank: int) -> pd.DataFrame:
    """What the scale of each frozen factor does to the learning rate of the other.

    A frozen factor c times orthonormal multiplies the effective step of gradient descent by c^2, and of Adam (whose
    steps do not shrink with the gradient) by c. Kaiming-uniform draws on a B of shape (d_out, rank) are the large ones:
    the fan-in is the rank. Compare runs at equal effective steps before blaming the random subspace.

    Returns
    -------
    DataFrame
        `factor, initialization`, `norm` (root mean square of a row of A or a column of B, relative to orthonormal),
        `gradient_descent_multiplier`, `adam_multiplier`.

    Notes
    -----
    Theory notes, sections 1.5 and 6.5 (torch's `kaiming_uniform_(a=sqrt(5))`: entries uniform on +-1/sqrt(fan_in)).
    That this explains the poor results of a frozen Kaiming B in the paper is a hypothesis of those notes.

    Examples
    --------
    >>> initialization_scales(1024, 8).round(3).gradient_descent_multiplier.tolist()
    [1.0, 0.333, 1.0, 42.667]
    """
    norms = {
        ("A", "orthonormal"): 1.0,
        ("A", "kaiming"): math.sqrt(1 / 3),
        ("B", "orthonormal"): 1.0,
        ("B", "kaiming"): math.sqrt(d_out / (3 * rank)),
    }
    return pd.DataFrame(
        [
            {
                "factor": factor,
                "initialization": name,
                "norm": norm,
                "gradient_descent_multiplier": norm**2,
                "adam_multiplier": norm,
            }
            for (factor, name), norm in norms.items()
        ]
    )
