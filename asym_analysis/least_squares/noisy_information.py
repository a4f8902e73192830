"""Mutual information between training data and a noisy least-squares fit, exactly, and the gap it bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.noisy_fit import gaussian_channel_information
from asym_analysis.least_squares.arguments import whole_numbers
from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import FACTORS, Factor, choose, finite, whole

__all__ = ["InformationAndGap", "information_against_gap", "noisy_fit_information"]


@dataclass(frozen=True, eq=False, repr=False)
class InformationAndGap(TableResult):
    """The information of noisy fits, the bound it gives, and the gap that the bound has to cover.

    Attributes
    ----------
    frame
        One row a training-set size and trained factor: `samples, tuned, rank, parameters` (trained numbers), `nats`
        (mean over draws), `gap` (fresh minus training loss) with `gap_standard_error`, and `bound`: sqrt(nats / (2
        samples)), Xu and Raginsky (2017) for a loss in [0, 1].
    settings
        The arguments, and versions.
    """

    _plot: ClassVar[str | None] = "fits:plot_information"


def noisy_fit_information(
    problem: LeastSquaresProblem,
    inputs: Float[Tensor, "samples d_in"] | Float[np.ndarray, "samples d_in"],
    frozen: Float[Tensor, "rows columns"] | Float[np.ndarray, "rows columns"],
    tuned: Factor,
    noise_scale: float | int,
) -> float:
    """Information, in nats, that a least-squares factor with added Gaussian noise carries about the outputs.

    W = fitted factor + N(0, noise_scale^2) in every entry; the result is I(W; outputs | inputs), for these inputs and
    this frozen factor.

    Parameters
    ----------
    problem : LeastSquaresProblem
        Gaussian inputs, Gaussian noise.
    inputs : float Tensor or array of shape (samples, d_in)
        The training inputs, shape (samples, d_in), of full column rank for `tuned="A"`.
    frozen : float Tensor or array of shape (rows, columns)
        A, shape (rank, d_in), when B is tuned; an orthonormal B, shape (d_out, rank), when A is tuned.
    tuned : {"A", "B"}
        The trained factor, "B" or "A".
    noise_scale : float or int
        Standard deviation of the noise on every entry of the trained factor; above 0.

    Returns
    -------
    float
        In nats.

    Raises
    ------
    ValueError
        `tuned` is misspelled, there are fewer samples than regressors, or the noise scale is not positive (the
        information is then infinite).

    Notes
    -----
    B trained, Z = inputs A^T, R the covariance over outputs of what Z leaves of y (misfit and
    noise; for Gaussian inputs independent of Z): 1/2 ln det[I + R (x) (Z^T Z)^-1 / noise_scale^2]. A trained:
    (r/2) ln det[I + noise_variance (X^T X)^-1 / noise_scale^2]. The information about inputs and outputs together is
    larger, by what W tells of the inputs alone; so the gap that it bounds is the one at fixed inputs.

    References
    ----------
    docs/theory.md, section 6.8.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.zeros(1, 1), torch.ones(1), 1.0)
    >>> inputs = torch.ones(4, 1, dtype=torch.float64)
    >>> round(noisy_fit_information(problem, inputs, torch.ones(1, 1), "A", 0.5), 4)  # ln(2) / 2
    0.3466
    """
    choose(tuned, FACTORS, "tuned")
    X = torch.as_tensor(inputs).to(problem.delta)
    fixed = torch.as_tensor(frozen).to(problem.delta)
    if tuned == "B":
        regressors = X @ fixed.T
        output_variances = torch.linalg.eigvalsh(_residual_covariance(problem, fixed)).clamp_min(0)
    else:
        regressors = X
        # Orthonormal columns of B leave the noise of the projected outputs white.
        output_variances = torch.full((fixed.shape[1],), problem.noise_variance).to(X)
    return gaussian_channel_information(regressors.cpu().numpy(), output_variances.cpu().numpy(), noise_scale)


def information_against_gap(
    problem: LeastSquaresProblem,
    rank: int,
    samples: int | Sequence[int],
    *,
    noise_scale: float | int,
    clip: float | int,
    draws: int = 200,
    seed: int = 0,
) -> InformationAndGap:
    """The exact information of noisy fits, the bound it gives, and the gap that the bound has to cover.

    For each training-set size and trained factor: draws inputs, outputs and a random frozen factor, fits, adds noise,
    and measures the loss min(|y - prediction|^2 / clip, 1), which lies in [0, 1], on the training outputs and on fresh
    outputs at the same inputs (at the same projected inputs A x when B is trained: the rest of x is then part of the
    noise). The information is conditional on those inputs, and bounds this gap.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        The problem, and the rank of the update.
    samples : int or sequence of int
        Sizes of the training set, one or several.
    noise_scale : float or int
        As in `noisy_fit_information`.
    clip : float or int
        Squared error that counts as 1; above 0.
    draws, seed : int, optional
        Data sets for each row, and the seed.

    Returns
    -------
    InformationAndGap
        `samples, tuned, rank, parameters, nats, gap, gap_standard_error, bound`, as described there.

    Raises
    ------
    ValueError
        A number is out of range, or there are fewer samples than regressors.

    References
    ----------
    docs/theory.md, sections 5.1 and 6.8.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(4), torch.ones(4), 1.0)
    >>> table = information_against_gap(problem, 2, [40], noise_scale=0.1, clip=8.0, draws=50).frame
    >>> bool((table.gap < table.bound).all())
    True
    """
    sizes, draws, seed = whole_numbers(samples, "samples"), whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    noise_scale, clip = finite(noise_scale, "noise_scale", above=0), finite(clip, "clip", above=0)
    rows = []
    for count in sizes:
        for tuned in FACTORS:
            check_rank(problem, rank, tuned)
            rng = np.random.default_rng([seed, count, rank])
            measured = [_one_noisy_fit(problem, rank, count, tuned, noise_scale, clip, rng) for _ in range(draws)]
            nats, gaps = (np.array(column) for column in zip(*measured, strict=True))
            rows.append(
                {
                    "samples": count,
                    "tuned": tuned,
                    "rank": rank,
                    "parameters": rank * (problem.d_in if tuned == "A" else problem.d_out),
                    "nats": float(nats.mean()),
                    "gap": float(gaps.mean()),
                    "gap_standard_error": float(gaps.std(ddof=1)) / math.sqrt(draws),
                    # Jensen: the mean of the bounds of the draws is at most the bound of the mean.
                    "bound": math.sqrt(float(nats.mean()) / (2 * count)),
                }
            )
    settings = settings_of(
        problem=problem.description,
        rank=rank,
        samples=sizes,
        noise_scale=noise_scale,
        clip=clip,
        draws=draws,
        seed=seed,
    )
    return InformationAndGap(pd.DataFrame(rows), settings)


def _residual_covariance(problem: LeastSquaresProblem, A: Tensor) -> Float[Tensor, "d_out d_out"]:
    left = (problem.delta - problem.freeze_A(A).update) @ problem.eigenvectors * problem.eigenvalues.sqrt()
    return left @ left.T + problem.noise_variance * torch.eye(problem.d_out).to(left)


def _one_noisy_fit(
    problem: LeastSquaresProblem,
    rank: int,
    samples: int,
    tuned: Factor,
    noise_scale: float,
    clip: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(problem.delta)

    X = (normal(samples, problem.d_in) * problem.eigenvalues.sqrt()) @ problem.eigenvectors.T
    frozen = torch.linalg.qr(normal(problem.d_in if tuned == "B" else problem.d_out, rank))[0]
    if tuned == "B":
        frozen = frozen.T
        # Given Z = X A^T alone, the rest of the input is part of the noise: fresh outputs draw it anew.
        best = problem.freeze_A(frozen)
        Z = X @ frozen.T
        factor = torch.linalg.cholesky(_residual_covariance(problem, frozen) + 1e-12 * torch.eye(problem.d_out).to(X))
        y, fresh = (Z @ best.B.T + normal(samples, problem.d_out) @ factor.T for _ in range(2))
        predict = Z @ (torch.linalg.lstsq(Z, y).solution + noise_scale * normal(rank, problem.d_out))
    else:
        noise = math.sqrt(problem.noise_variance)
        y, fresh = (X @ problem.delta.T + noise * normal(samples, problem.d_out) for _ in range(2))
        A = torch.linalg.lstsq(X, y @ frozen).solution.T + noise_scale * normal(rank, problem.d_in)
        predict = X @ A.T @ frozen.T
    losses = [((target - predict).square().sum(1) / clip).clamp_max(1).mean() for target in (fresh, y)]
    return noisy_fit_information(problem, X, frozen, tuned, noise_scale), float(losses[0] - losses[1])
