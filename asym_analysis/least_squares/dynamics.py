"""Gradient descent with one factor frozen: its path, and what the scale of the frozen factor does to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["InitializationScales", "LossPath", "descent_path", "initialization_scales"]


@dataclass(frozen=True, eq=False, repr=False)
class LossPath(TableResult):
    """Expected loss along training.

    Attributes
    ----------
    frame
        `step` (0 is before the first), `tuned` (the factor that the step trained), `loss` (squared outputs),
        `gain_fraction` (of the signal); of chains also `stated_error`.
    settings
        `along` ("gradient step", "half-step" or "block"), `limit` (the loss that the path tends to), the arguments, and
        versions.
    """

    _plot: ClassVar[str | None] = "fits:plot_loss_path"


@dataclass(frozen=True, eq=False, repr=False)
class InitializationScales(TableResult):
    """What the scale of each frozen factor does to the learning rate of the other.

    Attributes
    ----------
    frame
        `factor, initialization`, `norm` (root mean square of a row of A or a column of B, relative to orthonormal),
        `gradient_descent_multiplier`, `adam_multiplier`.
    settings
        The arguments, and versions.
    """


def descent_path(
    problem: LeastSquaresProblem,
    *,
    learning_rate: float | int,
    steps: int,
    A: Float[Tensor, "rank d_in"] | None = None,
    B: Float[Tensor, "d_out rank"] | None = None,
) -> LossPath:
    """Loss along gradient descent from zero on the factor that is not given, in closed form.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem; descent follows half its loss.
    learning_rate, steps : float or int
        Of plain gradient descent.
    A, B : float Tensor, optional
        The frozen factor, shape (rank, d_in) or (d_out, rank): give one of the two.

    Returns
    -------
    LossPath
        `step, tuned, loss, gain_fraction`, before the first step and after each. A learning rate above two over the
        largest curvature makes the loss grow without limit; `limit` is then infinite.

    Raises
    ------
    ValueError
        Both factors or neither are given, or a number is out of range.

    Notes
    -----
    B_t = B* (I - (I - eta Q covariance Q^T)^t), so the loss decays along the eigenvectors of Q covariance Q^T. With B =
    U frozen it decays along pairs of an input component and an eigenvector of U^T U, at the product of the two
    eigenvalues.

    References
    ----------
    docs/theory.md, section 6.5.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
    >>> descent_path(problem, learning_rate=0.5, steps=2, A=torch.tensor([[1.0, 0.0]])).frame.loss.tolist()
    [2.0, 1.25, 1.0625]
    """
    learning_rate, steps = finite(learning_rate, "learning_rate", above=0), whole(steps, "steps", least=0)
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
    floor = problem.irreducible + max(0.0, problem.signal - float(energy.sum()))
    rates, energy = rates[energy > 0], energy[energy > 0]
    # Every direction decays on its own: its part of the loss shrinks by (1 - eta · rate)^2 a step.
    decay = (1 - learning_rate * rates).abs()[None, :] ** (2 * times[:, None])
    losses = (floor + decay.to(energy) @ energy).cpu().numpy()
    stays, grows = (rates <= 0) | (learning_rate * rates == 2), learning_rate * rates > 2
    settings = settings_of(
        along="gradient step",
        limit=math.inf if grows.any() else floor + float(energy[stays].sum()),
        problem=problem.description,
        learning_rate=learning_rate,
        steps=steps,
        frozen="B" if A is None else "A",
        rank=int(scales.shape[0]),
    )
    return path_of(problem, losses, ["A" if A is None else "B"] * (steps + 1), settings)


def path_of(
    problem: LeastSquaresProblem, losses: Float[np.ndarray, " steps"], tuned: list[str], settings: dict
) -> LossPath:
    """The path of these losses.

    Parameters
    ----------
    problem, losses, tuned, settings
        The problem; the loss and the trained factor at each step; the settings of the result.

    Returns
    -------
    LossPath
        See there.
    """
    signal = problem.signal
    gains = (signal - (losses - problem.irreducible)) / signal if signal > 0 else np.full(len(losses), math.nan)
    frame = pd.DataFrame({"step": np.arange(len(losses)), "tuned": tuned, "loss": losses, "gain_fraction": gains})
    return LossPath(frame, settings)


def initialization_scales(d_out: int, rank: int) -> InitializationScales:
    """What the scale of each frozen factor does to the learning rate of the other.

    A frozen factor c times orthonormal multiplies the effective step of gradient descent by c^2, and of Adam (whose
    steps do not shrink with the gradient) by c. Kaiming-uniform draws on a B of shape (d_out, rank) are the large ones:
    the fan-in is the rank. Compare runs at equal effective steps before blaming the random subspace.

    Parameters
    ----------
    d_out, rank : int
        Shape of B.

    Returns
    -------
    InitializationScales
        `factor, initialization, norm, gradient_descent_multiplier, adam_multiplier`, as described there.

    Raises
    ------
    ValueError
        If a number is not positive.

    Notes
    -----
    torch's `kaiming_uniform_(a=sqrt(5))` draws entries uniform on +-1/sqrt(fan_in). That its scale explains the poor
    results of a frozen Kaiming B in the paper is a hypothesis.

    References
    ----------
    docs/theory.md, sections 1.5 and 6.5.

    Examples
    --------
    >>> initialization_scales(1024, 8).frame.round(3).gradient_descent_multiplier.tolist()
    [1.0, 0.333, 1.0, 42.667]
    """
    d_out, rank = whole(d_out, "d_out", least=1), whole(rank, "rank", least=1)
    norms = {
        ("A", "orthonormal"): 1.0,
        ("A", "kaiming"): math.sqrt(1 / 3),
        ("B", "orthonormal"): 1.0,
        ("B", "kaiming"): math.sqrt(d_out / (3 * rank)),
    }
    rows = [
        {
            "factor": factor,
            "initialization": name,
            "norm": norm,
            "gradient_descent_multiplier": norm**2,
            "adam_multiplier": norm,
        }
        for (factor, name), norm in norms.items()
    ]
    return InitializationScales(pd.DataFrame(rows), settings_of(d_out=d_out, rank=rank))
