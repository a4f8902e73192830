"""The same experiment beyond least squares: logistic, softmax and two-layer outputs, by training.

No theorem covers these; the linear theory is the reference that they are held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from asym_analysis.least_squares.arguments import TunedChoice, each_tuned
from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.least_squares.theory import expected_loss
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import Tuned, choose, finite, whole

__all__ = ["NonlinearTraining", "Output", "train_beyond_linear"]

Output = Literal["linear", "logistic", "softmax", "two-layer"]
Activations = Float[Tensor, "draws samples d_out"]


@dataclass(frozen=True, eq=False, repr=False)
class NonlinearTraining(TableResult):
    """How much loss low-rank updates remove under a non-linear output.

    Attributes
    ----------
    frame
        One row a draw: `output, tuned, rank, draw, excess_loss, gain_fraction` (part of the initial excess loss that
        training removed) and `linear_theory`, the gain fraction of the least-squares problem.
    settings
        The arguments, and versions.
    """

    _plot: ClassVar[str | None] = "fits:plot_nonlinear"

    def summary(self) -> pd.DataFrame:
        """One row an output and choice of trained factors.

        Returns
        -------
        DataFrame
            `output, tuned, draws, gain_fraction` (mean), `standard_error`, `linear_theory`.
        """
        grouped = self.frame.groupby(["output", "tuned"], sort=False)
        return grouped.agg(
            draws=("draw", "size"),
            gain_fraction=("gain_fraction", "mean"),
            standard_error=("gain_fraction", "sem"),
            linear_theory=("linear_theory", "first"),
        ).reset_index()


def train_beyond_linear(
    problem: LeastSquaresProblem,
    rank: int,
    output: Output,
    *,
    tuned: TunedChoice = ("A", "B", "both"),
    strength: float | int = 2.0,
    samples: int = 2048,
    draws: int = 8,
    steps: int = 400,
    learning_rate: float | int = 0.05,
    seed: int = 0,
) -> NonlinearTraining:
    """Train low-rank updates of z = (W0 + BA) x under a non-linear output, and measure how much loss they remove.

    The target is the same network at W0 + delta, so the excess loss of a perfect update is zero. W0 is Gaussian, scaled
    to contribute as much to z as delta does. Inputs are N(0, covariance).

    Parameters
    ----------
    problem : LeastSquaresProblem
        Supplies delta and the covariance; both are rescaled to `strength`.
    rank : int
        Rank of the update.
    output : {"linear", "logistic", "softmax", "two-layer"}
        "linear": squared error in z (the theory is then exact up to samples and steps); "logistic": one Bernoulli for
        each output, excess loss in nats; "softmax": one categorical over the outputs, in nats; "two-layer": squared
        error after max(z, 0) and a fixed random second layer.
    tuned : {"B", "A", "both"} or sequence of these, optional
        The trained factors: "A", "B", "both" or several of them. A frozen factor is orthonormal and random, a trained
        one beside it is initialized at zero.
    strength : float or int, default 2.0
        Root mean square of the change that delta makes in each z. The logistic and softmax losses are quadratic, and
        agree with the linear theory, where it is well below 1; at 2 many outputs saturate.
    samples : int, default 2048
        Inputs to train on, and as many fresh ones to measure on.
    draws : int, default 8
        Random frozen factors (for "both", random initializations of A), all trained in one batch.
    steps, learning_rate : int or float, optional
        Of full-batch Adam, annealed to zero by a cosine. The rate is multiplied by `strength`, but for A where both
        factors are trained.
    seed : int, default 0
        For inputs, W0 and factors; the same seed gives the same table.

    Returns
    -------
    NonlinearTraining
        `output, tuned, rank, draw, excess_loss, gain_fraction, linear_theory`, as described there.

    Raises
    ------
    ValueError
        `output` or `tuned` is misspelled, the problem has no signal, or a number is out of range.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(6), torch.ones(6))
    >>> table = train_beyond_linear(problem, 2, "softmax", samples=128, draws=2, steps=50).frame
    >>> table.groupby("tuned").size().tolist(), bool((table.gain_fraction > 0).all())
    ([2, 2, 2], True)
    """
    choose(output, get_args(Output), "output")
    choices = each_tuned(tuned)
    strength, learning_rate = (
        finite(value, name, above=0) for value, name in ((strength, "strength"), (learning_rate, "learning_rate"))
    )
    samples, draws, steps = (
        whole(value, name, least=1) for value, name in ((samples, "samples"), (draws, "draws"), (steps, "steps"))
    )
    if problem.signal <= 0:
        raise ValueError("the problem has no signal, so there is nothing to train")
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    roots = problem.eigenvalues.sqrt()

    def inputs() -> Tensor:
        return torch.from_numpy(rng.standard_normal((samples, problem.d_in))) * roots @ problem.eigenvectors.T

    train, fresh = inputs(), inputs()
    delta = problem.delta * (strength / math.sqrt(problem.signal / problem.d_out))
    pretrained = torch.from_numpy(rng.standard_normal(problem.delta.shape))
    pretrained *= strength / math.sqrt(float(problem.eigenvalues.sum()))
    excess = _excess_loss(output, problem.d_out, rng)
    rows = []
    for choice in choices:
        check_rank(problem, rank, choice)
        A, B = _initial_factors(problem, rank, choice, draws, rng)
        # The update is as large as `strength`; of two trained factors A stays as large as it begins.
        of_A = learning_rate * (1.0 if choice == "both" else strength)
        _fit(partial(excess, train, pretrained, delta), A, B, steps, (of_A, learning_rate * strength))
        with torch.no_grad():
            before = excess(fresh, pretrained, delta, torch.zeros_like(A), torch.zeros_like(B))
            after = excess(fresh, pretrained, delta, A, B)
        reference = expected_loss(problem, rank, choice).gain_fraction
        rows += [
            {
                "output": output,
                "tuned": choice,
                "rank": rank,
                "draw": draw,
                "excess_loss": float(after[draw]),
                "gain_fraction": 1 - float(after[draw] / before[draw]),
                "linear_theory": reference,
            }
            for draw in range(draws)
        ]
    settings = settings_of(
        problem=problem.description,
        rank=rank,
        output=output,
        tuned=list(choices),
        strength=strength,
        samples=samples,
        draws=draws,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
    )
    return NonlinearTraining(pd.DataFrame(rows), settings)


def _initial_factors(
    problem: LeastSquaresProblem, rank: int, tuned: Tuned, draws: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Factors of shape (draws, rank, d_in) and (draws, d_out, rank); those to be trained require gradients."""

    def orthonormal(rows: int) -> Tensor:
        return torch.linalg.qr(torch.from_numpy(rng.standard_normal((draws, rows, rank))))[0]

    if tuned == "A":
        B = orthonormal(problem.d_out)
        A = torch.zeros(draws, rank, problem.d_in, dtype=torch.float64)
    else:
        A = orthonormal(problem.d_in).mT.contiguous()
        B = torch.zeros(draws, problem.d_out, rank, dtype=torch.float64)
    return A.requires_grad_(tuned != "B"), B.requires_grad_(tuned != "A")


def _fit(
    objective: Callable[[Tensor, Tensor], Tensor], A: Tensor, B: Tensor, steps: int, rates: tuple[float, float]
) -> None:
    trained = [(factor, rate) for factor, rate in zip((A, B), rates, strict=True) if factor.requires_grad]
    optimizer = torch.optim.Adam([{"params": [factor], "lr": rate} for factor, rate in trained])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(A, B).sum().backward()
        optimizer.step()
        schedule.step()


def _excess_loss(
    output: Output, d_out: int, rng: np.random.Generator
) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Mean excess loss of each draw: a divergence between the activations of the target and of the fit."""
    second_layer = torch.from_numpy(rng.standard_normal((d_out, d_out))) / math.sqrt(d_out)

    def divergence(target: Tensor, fitted: Activations) -> Activations:
        if output == "linear":
            return (fitted - target).square()
        if output == "logistic":
            return softplus(fitted) - softplus(target) - torch.sigmoid(target) * (fitted - target)
        if output == "softmax":
            shift = fitted - target
            # log-partition ratio, spread over the outputs so that the sum over outputs below is the KL divergence
            ratio = torch.logsumexp(fitted, -1, keepdim=True) - torch.logsumexp(target, -1, keepdim=True)
            return torch.softmax(target, -1) * (ratio - shift)
        return ((fitted.clamp_min(0) - target.clamp_min(0)) @ second_layer).square()  # two-layer

    def excess(inputs: Tensor, pretrained: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
        base = inputs @ pretrained.T
        fitted = base + (inputs @ A.mT) @ B.mT
        return divergence(base + inputs @ delta.T, fitted).sum(-1).mean(-1)

    return excess
