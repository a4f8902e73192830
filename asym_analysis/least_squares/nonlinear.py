"""The same experiment beyond least squares: logistic, softmax and two-layer outputs, by training.

No theorem covers these; the linear theory is the reference that they are held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from asym_analysis.least_squares.problem import LeastSquaresProblem, Tuned, check_rank
from asym_analysis.least_squares.theory import expected_loss

__all__ = ["Output", "train_beyond_linear"]

Output = Literal["linear", "logistic", "softmax", "two-layer"]
Activations = Float[Tensor, "draws samples d_out"]


def train_beyond_linear(
    problem: LeastSquaresProblem,
    rank: int,
    output: Output,
    *,
    tuned: Sequence[Tuned] = ("A", "B", "both"),
    samples: int = 2048,
    draws: int = 8,
    steps: int = 400,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """Train low-rank updates of z = (W0 + BA) x under a non-linear output, and measure how much loss they remove.

    The target is the same network at W0 + delta, so the excess loss of a perfect update is zero. W0 is Gaussian, scaled
    to contribute as much to z as delta does. Inputs are N(0, covariance).

    Parameters
    ----------
    problem
        Supplies delta and the covariance; its signal is the mean square of the change in z.
    rank
        Rank of the update.
    output
        "linear": squared error in z (the theory is then exact up to samples and steps); "logistic": one Bernoulli for
        each output, excess loss in nats; "softmax": one categorical over the outputs, in nats; "two-layer": squared
        error after max(z, 0) and a fixed random second layer.
    tuned
        Ways to train; a frozen factor is orthonormal and random, a tuned one beside it starts from zero.
    samples
        Inputs to train on, and as many fresh ones to measure on.
    draws
        Random frozen factors (and, for "both", starts), all trained in one batch.
    steps, learning_rate
        Of full-batch Adam, annealed to zero by a cosine.
    seed
        For inputs, W0 and factors; the same seed gives the same table.

    Returns
    -------
    DataFrame
        One row a draw: `output, tuned, rank, draw, excess_loss, gain_fraction` (part of the initial excess loss that
        training removed) and `linear_theory`, the gain fraction of the least-squares problem.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(6), torch.ones(6))
    >>> table = train_beyond_linear(problem, 2, "softmax", samples=128, draws=2, steps=50)
    >>> table.groupby("tuned").size().tolist(), bool((table.gain_fraction > 0).all())
    ([2, 2, 2], True)
    """
    rng = np.random.default_rng(seed)
    roots = problem.eigenvalues.sqrt()

    def inputs() -> Tensor:
        return torch.from_numpy(rng.standard_normal((samples, problem.d_in))) * roots @ problem.eigenvectors.T

    train, fresh = inputs(), inputs()
    pretrained = torch.from_numpy(rng.standard_normal(problem.delta.shape))
    pretrained *= math.sqrt(problem.signal / (float(problem.eigenvalues.sum()) * problem.d_out))
    excess = _excess_loss(output, problem.d_out, rng)
    rows = []
    for way in tuned:
        check_rank(problem, rank, way)
        A, B = _start(problem, rank, way, draws, rng)
        _fit(partial(excess, train, pretrained, problem.delta), A, B, steps, learning_rate)
        with torch.no_grad():
            start = excess(fresh, pretrained, problem.delta, torch.zeros_like(A), torch.zeros_like(B))
            end = excess(fresh, pretrained, problem.delta, A, B)
        reference = expected_loss(problem, rank, way).gain_fraction
        rows += [
            {
                "output": output,
                "tuned": way,
                "rank": rank,
                "draw": draw,
                "excess_loss": float(end[draw]),
                "gain_fraction": 1 - float(end[draw] / start[draw]),
                "linear_theory": reference,
            }
            for draw in range(draws)
        ]
    return pd.DataFrame(rows)


def _start(
    problem: LeastSquaresProblem, rank: int, tuned: Tuned, draws: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Factors of shape (draws, rank, d_in) and (draws, d_out, rank); those to be tuned require gradients."""

    def orthonormal(rows: int) -> Tensor:
        return torch.linalg.qr(torch.from_numpy(rng.standard_normal((draws, rows, rank))))[0]

    if tuned == "A":
        B = orthonormal(problem.d_out)
        A = torch.zeros(draws, rank, problem.d_in, dtype=torch.float64)
    else:
        A = orthonormal(problem.d_in).mT.contiguous()
        B = torch.zeros(draws, problem.d_out, rank, dtype=torch.float64)
    return A.requires_grad_(tuned != "B"), B.requires_grad_(tuned != "A")


def _fit(objective: Callable[[Tensor, Tensor], Tensor], A: Tensor, B: Tensor, steps: int, learning_rate: float) -> None:
    optimizer = torch.optim.Adam([factor for factor in (A, B) if factor.requires_grad], lr=learning_rate)
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
        if output == "two-layer":
            return ((fitted.clamp_min(0) - target.clamp_min(0)) @ second_layer).square()
        raise ValueError(f'output is {output!r}; give "linear", "logistic", "softmax" or "two-layer"')

    def excess(inputs: Tensor, pretrained: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Tensor:
        base = inputs @ pretrained.T
        fitted = base + (inputs @ A.mT) @ B.mT
        return divergence(base + inputs @ delta.T, fitted).sum(-1).mean(-1)

    return excess
