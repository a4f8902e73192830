"""What training on n samples costs: freezing A pays for its misfit, freezing B for the input dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.chance.retention import effective_dimension_penalty
from asym_analysis.least_squares.problem import LeastSquaresProblem, Tuned
from asym_analysis.least_squares.theory import expected_loss

__all__ = [
    "FiniteSampleLoss",
    "compare_finite_samples",
    "expected_finite_sample_loss",
    "expected_generalization_gap",
    "head_to_head",
]


@dataclass(frozen=True)
class FiniteSampleLoss:
    """Expected loss on new data after fitting n samples.

    Attributes
    ----------
    mean
        Over the samples and the random frozen factor; infinity where the fit has no finite mean.
    population
        The same with infinitely many samples.
    error
        Stated error of `mean`; zero where exact.
    method
        "exact" (given the population loss), "deterministic equivalent", "asymptotic" (leading order in 1/n) or
        "no finite mean".
    """

    mean: float
    population: float
    error: float
    method: str


def expected_finite_sample_loss(
    problem: LeastSquaresProblem, rank: int, samples: int, tuned: Tuned
) -> FiniteSampleLoss:
    """Expected loss of least squares on `samples` Gaussian inputs, without intercept.

    Parameters
    ----------
    problem
        Its inputs are taken as N(0, covariance) and its noise as N(0, noise_variance I).
    rank, samples
        Of the update, and of the training set.
    tuned
        "B": ordinary least squares of y on Qx, exact for samples > rank + 1; "A": least squares of U^T y on x, exact
        for samples > d_in + 1, and the least-norm fit below d_in - 1 samples (exact for an isotropic covariance);
        "both": the leading order of reduced-rank regression, for an update whose rank is at most `rank`.

    Raises
    ------
    ValueError
        A rank that is not possible, no sample, a problem with a frozen-bias floor (its misfit is not noise), or "both"
        with an update of higher rank.

    Notes
    -----
    Theory notes, section 6.4. With r = rank, n = samples, L the population loss:
    B: L (1 + r / (n-r-1)), since the misfit acts as further noise. A: L + r noise_variance d_in / (n-d_in-1).
    A, least norm, covariance = I: L + (1 - n/d_in) |U^T delta|^2 + r noise_variance n / (d_in-n-1). Other covariances:
    the deterministic equivalent of Hastie, Montanari, Rosset and Tibshirani (2022), "Surprises in high-dimensional
    ridgeless least squares interpolation" (recalled), checked here by simulation.
    Both: L + noise_variance r (d_in + d_out - r) / n. The stated errors of the last two are their next order, an
    estimate that held wherever it was simulated.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2), 1.0)
    >>> expected_finite_sample_loss(problem, 1, 12, "B").mean  # 3 times 1.1
    3.3...
    """
    _check_samples(problem, samples)
    expected = expected_loss(problem, rank, tuned)
    if tuned == "B":
        effective_rank = min(rank, problem.covariance_rank)
        if samples <= effective_rank + 1:
            return FiniteSampleLoss(math.inf, expected.mean, 0.0, "no finite mean")
        multiplier = 1 + effective_rank / (samples - effective_rank - 1)
        method = expected.method if expected.method == "deterministic equivalent" else "exact"
        return FiniteSampleLoss(expected.mean * multiplier, expected.mean, expected.error * multiplier, method)
    excess, error, method = _excess(problem, rank, samples, tuned)
    return FiniteSampleLoss(expected.mean + excess, expected.mean, error, method)


def expected_generalization_gap(problem: LeastSquaresProblem, rank: int, samples: int, tuned: Tuned) -> float:
    """Exact expected loss on new data minus expected loss on the training data, for "A" or "B".

    Independent noise added to the trained factor changes both by the same amount, so this is also the gap of the noisy
    fits of `noisy_information`.

    Raises
    ------
    ValueError
        `tuned` is "both", or too few samples for a finite mean.

    Notes
    -----
    Derived from the training losses L (1 - r/n) and L - r noise_variance d_in / n.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2), 1.0)
    >>> expected_generalization_gap(problem, 1, 12, "B")  # 3 times (1/10 + 1/12)
    0.55
    """
    _check_samples(problem, samples)
    if tuned == "both":
        raise ValueError('the exact gap is known for tuned="A" and tuned="B" alone')
    regressors = min(rank, problem.covariance_rank) if tuned == "B" else problem.covariance_rank
    if samples <= regressors + 1:
        raise ValueError(f"{samples} samples do not give {regressors} regressors a finite expected loss")
    factor = regressors / (samples - regressors - 1) + regressors / samples
    scale = expected_loss(problem, rank, tuned).mean if tuned == "B" else rank * problem.noise_variance
    return scale * factor


def head_to_head(
    problem: LeastSquaresProblem, rank: int, samples: Sequence[int], noise_variances: Sequence[float]
) -> pd.DataFrame:
    """Which factor to freeze, over training-set sizes and noise levels.

    Returns
    -------
    DataFrame
        `samples, noise_variance, loss_A_tuned, loss_B_tuned, winner`: the factor to tune, "A" or "B", or "tie".

    Notes
    -----
    Theory notes, section 6.4: at large n tuning B pays r L / n, tuning A pays r d_in noise_variance / n; tuning B needs
    n > r, tuning A needs n > d_in. So even isotropic inputs have a winner, and it changes with n and with the noise.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(20), torch.ones(20))
    >>> head_to_head(problem, 4, [30, 1000], [1.0]).winner.tolist()
    ['B', 'A']
    """
    rows = []
    for noise in noise_variances:
        noisy = LeastSquaresProblem(problem.delta, problem.covariance, noise, floor=problem.floor)
        for count in samples:
            loss_A, loss_B = (expected_finite_sample_loss(noisy, rank, count, way).mean for way in ("A", "B"))
            tie = loss_A == loss_B or math.isclose(loss_A, loss_B, rel_tol=1e-12)
            rows.append(
                {
                    "samples": count,
                    "noise_variance": float(noise),
                    "loss_A_tuned": loss_A,
                    "loss_B_tuned": loss_B,
                    "winner": "tie" if tie else ("A" if loss_A < loss_B else "B"),
                }
            )
    return pd.DataFrame(rows)


def compare_finite_samples(
    problem: LeastSquaresProblem,
    rank: int,
    samples: Sequence[int],
    *,
    tuned: Sequence[Tuned] = ("A", "B"),
    draws: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit fresh Gaussian data sets with fresh random factors, and put the theory beside the measured losses.

    Returns
    -------
    DataFrame
        `samples, tuned, rank, draws, seed, theory, stated_error, method, loss, standard_error, difference, z, agrees`
        as in `compare_theory`. Rows whose theory is infinite are left out.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(6), torch.ones(6), 0.5)
    >>> compare_finite_samples(problem, 2, [20], draws=300).agrees.all().item()
    True
    """
    rows = []
    for count in samples:
        for way in tuned:
            expected = expected_finite_sample_loss(problem, rank, count, way)
            if not math.isfinite(expected.mean):
                continue
            losses = _simulated_losses(problem, rank, count, way, draws, np.random.default_rng([seed, count]))
            error = float(losses.std()) / math.sqrt(draws)
            difference = float(losses.mean()) - expected.mean
            rows.append(
                {
                    "samples": count,
                    "tuned": way,
                    "rank": rank,
                    "draws": draws,
                    "seed": seed,
                    "theory": expected.mean,
                    "stated_error": expected.error,
                    "method": expected.method,
                    "loss": float(losses.mean()),
                    "standard_error": error,
                    "difference": difference,
                    "z": difference / error if error > 0 else math.nan,
                    "agrees": bool(abs(difference) <= expected.error + 3 * error + 1e-9 * expected.mean),
                }
            )
    return pd.DataFrame(rows)


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


def _check_samples(problem: LeastSquaresProblem, samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples is {samples}; give at least one")
    if problem.floor > 0:
        raise ValueError("the finite-sample formulas need the right bias: this problem has a frozen-bias floor")


def _excess(problem: LeastSquaresProblem, rank: int, samples: int, tuned: Tuned) -> tuple[float, float, str]:
    """Loss added by estimating A ("A") or both factors ("both"), its stated error, and how it is known."""
    noise = problem.noise_variance
    regressors = problem.covariance_rank
    if tuned == "both":
        if int((problem.singular_values > 1e-9 * problem.singular_values[0]).sum()) > rank:
            raise ValueError(f"the update has a rank above {rank}; the rate of joint training is only known up to it")
        excess = noise * rank * (regressors + problem.d_out - rank) / samples
        # The next order is relatively of the size of (regressors and outputs) / samples.
        return excess, excess * min(1.0, (regressors + problem.d_out) / samples), "asymptotic"
    if samples > regressors + 1:
        return rank * noise * regressors / (samples - regressors - 1), 0.0, "exact"
    if samples >= regressors - 1:
        return math.inf, 0.0, "no finite mean"
    support = problem.eigenvalues > 0
    values = problem.eigenvalues[support].cpu().numpy()
    coefficients = (problem.delta @ problem.eigenvectors).square().sum(0)[support].cpu().numpy()
    seen = rank / problem.d_out  # the part of |delta|^2 that a random B sees
    if values.max() <= values.min() * (1 + 1e-9):
        bias = (1 - samples / regressors) * float(values[0] * coefficients.sum())
        return seen * bias + rank * noise * samples / (regressors - samples - 1), 0.0, "exact"
    penalty = effective_dimension_penalty(values, samples)
    shrink = penalty / (values + penalty)
    second = float(((1 - shrink) ** 2).sum())
    bias = float(coefficients @ (values * shrink**2)) / (1 - second / samples)
    excess = seen * bias + rank * noise * second / (samples - second)
    # Each direction's fluctuation enters at the order 1 / (samples - second), as in `Retention`.
    return excess, excess / (samples - second), "deterministic equivalent"
