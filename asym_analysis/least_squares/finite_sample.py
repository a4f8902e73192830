"""What training on n samples costs: freezing A pays for its misfit, freezing B for the input dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.chance.noise_spectrum import top_noise_energy
from asym_analysis.chance.retention import effective_dimension_penalty
from asym_analysis.least_squares.arguments import TunedChoice, each_tuned, whole_numbers
from asym_analysis.least_squares.comparison import TheoryComparison, agreement
from asym_analysis.least_squares.input_check import objection_to
from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.theory import expected_loss
from asym_analysis.results import settings_of
from asym_analysis.vocabulary import Tuned, whole

__all__ = ["FiniteSampleLoss", "compare_finite_samples", "expected_finite_sample_loss"]

EXACT = 1e-12  # of the loss at no update, below which a fit of all that matters leaves nothing
NEXT_ORDER = 0.25  # of (regressors + outputs) / samples; 4,556 simulated settings need at most .1
WEAKEST_SIGNAL = 4.0  # least squared singular value of the update, in units of the largest of the noise


@dataclass(frozen=True)
class FiniteSampleLoss:
    """Expected loss on new data after fitting n samples.

    Attributes
    ----------
    mean
        Over the samples and the random frozen factor (squared outputs); infinity where the fit has no finite mean, NaN
        where the method is "cannot tell".
    population
        The same with infinitely many samples.
    error
        Stated error of `mean`; zero where exact.
    method
        "exact" (given the population loss), "deterministic equivalent", "asymptotic" (leading order in the noise), "no
        finite mean", or "cannot tell" (B on fewer samples than its rank less one, joint training on hardly more samples
        than inputs or of an update that does not stand above the noise, or inputs that are not what the formulas need).
    objection
        What speaks against the inputs that were given, or "".
    """

    mean: float
    population: float
    error: float
    method: str
    objection: str = ""


def expected_finite_sample_loss(
    problem: LeastSquaresProblem,
    rank: int,
    samples: int,
    tuned: Tuned,
    *,
    inputs: Float[Tensor, "samples d_in"] | Float[np.ndarray, "samples d_in"] | None = None,
) -> FiniteSampleLoss:
    """Expected loss of least squares on `samples` Gaussian inputs, without intercept.

    Parameters
    ----------
    problem : LeastSquaresProblem
        Its inputs are taken as N(0, covariance) and its noise as N(0, noise_variance I).
    rank, samples : int
        Of the update, and of the training set.
    tuned : {"B", "A", "both"}
        The trained factors. "B": ordinary least squares of y on Qx, exact for samples > rank + 1, "cannot tell" below
        rank - 1; "A": least squares of
        U^T y on x, exact for samples > d_in + 1, and the least-norm fit below d_in - 1 samples (exact for an isotropic
        covariance); "both": the leading order of reduced-rank regression, for samples > d_in + 1 and an update whose
        rank is at most `rank`.

    inputs : float Tensor or array of shape (n, d_in), optional
        Inputs as the fit gets them, as many as there are. Where they are not independent Gaussian ones of the problem's
        covariance, the loss cannot be told: with heavy tails it is up to a quarter larger than predicted, with
        repeated samples by any factor (benchmarks/results/least_squares_attacks.csv).

    Returns
    -------
    FiniteSampleLoss
        With its stated error, and how it is known.

    Raises
    ------
    ValueError
        A rank that is not possible, no sample, a problem with a frozen-bias floor (its misfit is not noise), or "both"
        with an update of higher rank.

    Notes
    -----
    With r = rank, n = samples, p = rank of the covariance, L the population loss:
    B: L (1 + r / (n-r-1)), since the misfit acts as further noise; infinite for n from r-1 to r+1, and "cannot tell"
    for fewer samples, which a least-norm fit passes through. A: L + r noise_variance p / (n-p-1).
    A, least norm, covariance = I: L + (1 - n/d_in) |U^T delta|^2 + r noise_variance n / (d_in-n-1). Other covariances:
    the deterministic equivalent of Hastie, Montanari, Rosset and Tibshirani (2022), "Surprises in high-dimensional
    ridgeless least squares interpolation" (arXiv:1903.08560), checked here by simulation.
    Both, with k the rank of the update: L + noise_variance [(k p + E) / (n-p-1) + k (d_out - k) / (n-k-1)], where E is
    the expected energy of the r - k largest singular values of a (p-k) x (d_out-k) matrix of standard noise: the r - k
    directions that the update does not fill fit the strongest noise. Exact for no update; else to leading order in the
    noise, for n > p + 1, and where the update's smallest singular value stands above the noise,
    s_k^2 (1 - sqrt(k/n))^2 > 4 noise_variance (sqrt(p) + sqrt(d_out))^2 / n; elsewhere it cannot tell. The stated
    errors of the last two methods are their next order, an estimate that held wherever it was simulated.

    References
    ----------
    docs/theory.md, section 6.4.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2), 1.0)
    >>> expected_finite_sample_loss(problem, 1, 12, "B").mean  # 3 times 1.1
    3.3...
    """
    samples = whole(samples, "samples", least=1)
    if problem.floor > 0:
        raise ValueError("the finite-sample formulas need the right bias: this problem has a frozen-bias floor")
    expected = expected_loss(problem, rank, tuned)
    objection = "" if inputs is None else objection_to(inputs, problem)
    if objection:
        return FiniteSampleLoss(math.nan, expected.mean, math.nan, "cannot tell", objection)
    if tuned == "B":
        effective_rank = min(rank, problem.covariance_rank)
        exactly = expected.mean <= EXACT * (problem.signal + problem.irreducible)  # nothing acts as noise
        if samples < effective_rank - (0 if exactly else 1):
            return FiniteSampleLoss(math.nan, expected.mean, math.nan, "cannot tell")
        if samples <= effective_rank + 1:
            return (
                FiniteSampleLoss(expected.mean, expected.mean, 0.0, "exact")
                if exactly
                else FiniteSampleLoss(math.inf, expected.mean, 0.0, "no finite mean")
            )
        multiplier = 1 + effective_rank / (samples - effective_rank - 1)
        method = expected.method if expected.method == "deterministic equivalent" else "exact"
        return FiniteSampleLoss(expected.mean * multiplier, expected.mean, expected.error * multiplier, method)
    excess, error, method = (_joint_excess if tuned == "both" else _excess_of_A)(problem, rank, samples)
    return FiniteSampleLoss(expected.mean + excess, expected.mean, error, method)


def compare_finite_samples(
    problem: LeastSquaresProblem,
    rank: int,
    samples: int | Sequence[int],
    *,
    tuned: TunedChoice = ("A", "B"),
    draws: int = 400,
    seed: int = 0,
) -> TheoryComparison:
    """Fit fresh Gaussian data sets with fresh random factors, and put the theory beside the measured losses.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        As in `expected_finite_sample_loss`.
    samples : int or sequence of int
        Sizes of the training set, one or several.
    tuned : {"B", "A", "both"} or sequence of these, optional
        The trained factors: "A", "B", "both" or several of them.
    draws, seed : int, optional
        Data sets for each row, and the seed.

    Returns
    -------
    TheoryComparison
        Columns `samples, tuned, rank, draws, seed, theory, stated_error, method, loss, standard_error, difference,
        tolerance, z, agrees`. Rows whose theory is infinite or cannot tell are left out.

    Raises
    ------
    ValueError
        As `expected_finite_sample_loss`, or where no row is left.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(6), torch.ones(6), 0.5)
    >>> compare_finite_samples(problem, 2, 20, draws=300).frame.agrees.all().item()
    True
    """
    sizes, choices = whole_numbers(samples, "samples"), each_tuned(tuned)
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    rows = []
    for count in sizes:
        for choice in choices:
            expected = expected_finite_sample_loss(problem, rank, count, choice)
            if not math.isfinite(expected.mean):
                continue
            losses = _simulated_losses(problem, rank, count, choice, draws, np.random.default_rng([seed, count]))
            mean, error = float(losses.mean()), float(losses.std()) / math.sqrt(draws)
            rows.append(
                {
                    "samples": count,
                    "tuned": choice,
                    "rank": rank,
                    "draws": draws,
                    "seed": seed,
                    "theory": expected.mean,
                    "stated_error": expected.error,
                    "method": expected.method,
                    "loss": mean,
                    "standard_error": error,
                }
                | agreement(mean, expected.mean, expected.error, error, draws, 1e-9 * expected.mean)
            )
    if not rows:
        raise ValueError(f"no size among {sizes} has a finite expected loss; give more samples")
    settings = settings_of(
        along="samples",
        problem=problem.description,
        rank=rank,
        samples=sizes,
        tuned=list(choices),
        draws=draws,
        seed=seed,
    )
    return TheoryComparison(pd.DataFrame(rows), settings)


def _simulated_losses(
    problem: LeastSquaresProblem, rank: int, samples: int, tuned: Tuned, draws: int, rng: np.random.Generator
) -> Tensor:
    """Population losses of fits to simulated data, in the basis of the input principal components."""
    roots = problem.eigenvalues.sqrt()
    slope = problem.delta @ problem.eigenvectors
    losses = []
    for _ in range(draws):
        inputs = torch.from_numpy(rng.standard_normal((samples, problem.d_in))) * roots
        noise = torch.from_numpy(rng.standard_normal((samples, problem.d_out))) * math.sqrt(problem.noise_variance)
        outputs = inputs @ slope.T + noise
        if tuned == "B":
            A = torch.from_numpy(rng.standard_normal((rank, problem.d_in)))
            B = torch.linalg.lstsq(inputs @ A.T, outputs, driver="gelsd").solution.T
        elif tuned == "A":
            B = torch.linalg.qr(torch.from_numpy(rng.standard_normal((problem.d_out, rank))))[0]
            A = torch.linalg.lstsq(inputs, outputs @ B, driver="gelsd").solution.T
        else:
            B, A = _reduced_rank_fit(inputs, outputs, rank)
        losses.append(problem.irreducible + (((slope - B @ A) * roots) ** 2).sum())
    return torch.stack(losses)


def _reduced_rank_fit(inputs: Tensor, outputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Least squares cut to its leading fitted directions: the reduced-rank estimator."""
    full = torch.linalg.lstsq(inputs, outputs, driver="gelsd").solution.T
    directions = torch.linalg.svd((inputs @ full.T).T, full_matrices=False)[0][:, :rank]
    return directions, directions.T @ full


def _joint_excess(problem: LeastSquaresProblem, rank: int, samples: int) -> tuple[float, float, str]:
    """Loss added by estimating both factors, its stated error, and how it is known."""
    squares = problem.singular_values.square()
    filled = int((squares > 1e-18 * squares[0]).sum())
    if filled > rank:
        raise ValueError(f"the update has a rank above {rank}; the rate of joint training is only known up to it")
    regressors, outputs = problem.covariance_rank, problem.d_out
    if samples <= regressors + 1:
        return math.nan, math.nan, "cannot tell"
    noise = problem.noise_variance
    # The largest squared singular value of the noise in the fit over the smallest of the update, in these samples.
    seen = samples * (1 - math.sqrt(filled / samples)) ** 2
    ratio = (
        noise * (math.sqrt(regressors) + math.sqrt(outputs)) ** 2 / (seen * float(squares[filled - 1]))
        if filled
        else 0.0
    )
    if ratio * WEAKEST_SIGNAL > 1:
        return math.nan, math.nan, "cannot tell"
    of_slopes, of_directions = noise / (samples - regressors - 1), noise / (samples - filled - 1)
    spare, spare_error = top_noise_energy(regressors - filled, outputs - filled, rank - filled)
    excess = of_slopes * (filled * regressors + spare) + of_directions * filled * (outputs - filled)
    error = of_slopes * 3 * spare_error
    if not filled:
        return excess, error, "exact"
    return excess, error + excess * min(1.0, NEXT_ORDER * (regressors + outputs) / samples + ratio), "asymptotic"


def _excess_of_A(problem: LeastSquaresProblem, rank: int, samples: int) -> tuple[float, float, str]:
    """Loss added by estimating A with B frozen, its stated error, and how it is known."""
    noise, regressors = problem.noise_variance, problem.covariance_rank
    if samples > regressors + 1:
        return rank * noise * regressors / (samples - regressors - 1), 0.0, "exact"
    if noise == 0 and samples >= regressors:
        return 0.0, 0.0, "exact"
    if noise > 0 and samples >= regressors - 1:
        return math.inf, 0.0, "no finite mean"
    support = problem.eigenvalues > 0
    values = problem.eigenvalues[support].cpu().numpy()
    coefficients = (problem.delta @ problem.eigenvectors).square().sum(0)[support].cpu().numpy()
    seen = rank / problem.d_out  # the part of |delta|^2 that a random B sees
    if values.max() <= values.min() * (1 + 1e-9):
        bias = (1 - samples / regressors) * float(values[0] * coefficients.sum())
        spread = rank * noise * samples / (regressors - samples - 1) if noise > 0 else 0.0
        return seen * bias + spread, 0.0, "exact"
    penalty = effective_dimension_penalty(values, samples)
    shrink = penalty / (values + penalty)
    second = float(((1 - shrink) ** 2).sum())
    bias = float(coefficients @ (values * shrink**2)) / (1 - second / samples)
    excess = seen * bias + rank * noise * second / (samples - second)
    # Each direction's fluctuation enters at the order 1 / (samples - second), as in `Retention`.
    return excess, excess / (samples - second), "deterministic equivalent"
