"""Expected losses with A, B or neither frozen at random, and which choice wins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from asym_analysis.chance.haar import captured_energy_moments
from asym_analysis.chance.null import BetaNull, probability_of_more, quantiles
from asym_analysis.chance.retention import Retention, random_retention
from asym_analysis.least_squares.problem import LeastSquaresProblem, check_rank
from asym_analysis.least_squares.wins import gains_of_one_direction, share_of_wins
from asym_analysis.vocabulary import FACTORS, Tuned

__all__ = [
    "ExpectedLoss",
    "asymmetry_index",
    "expected_loss",
    "overtaking_rank",
    "win_probability",
]

QUANTILES = 2000  # that stand for a Beta distribution


@dataclass(frozen=True)
class ExpectedLoss:
    """The loss for one choice of trained factors, over the random draw of the frozen one.

    Attributes
    ----------
    mean
        Of the loss (its units are squared outputs).
    standard_deviation
        Of the loss over draws. With A frozen it is exact for flat inputs; for power laws of rank 2 and more it is
        within 10%, but it can be half the true value where a few directions stand 1,000 times above all others.
    error
        Stated error of `mean`; zero where it is exact.
    gain_fraction
        Part of the signal that training removes, 0 to 1, on average. NaN for a problem without signal.
    method
        "exact", "rank-one integral" or "deterministic equivalent" (with its first correction).
    """

    mean: float
    standard_deviation: float
    error: float
    gain_fraction: float
    method: str


def expected_loss(problem: LeastSquaresProblem, rank: int, tuned: Tuned) -> ExpectedLoss:
    """Expected loss after training, with the frozen factor drawn at random.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem.
    rank : int
        Rank of the update.
    tuned : {"B", "A", "both"}
        The trained factors. "B": A is frozen at random rows; "A": B is frozen at random orthonormal columns; "both":
        nothing is frozen.

    Returns
    -------
    ExpectedLoss
        "A": exact mean and variance. "both": exact, no randomness (reduced-rank regression). "B": exact for a flat
        spectrum, for rank 1 and once the rank reaches the covariance's; else the deterministic equivalent with its
        first correction, the error stated, the variance to leading order.

    Raises
    ------
    ValueError
        `rank` is not possible for `tuned`.

    References
    ----------
    docs/theory.md, sections 6.1 to 6.3 and 1.2 (e).

    Examples
    --------
    >>> import torch
    >>> problem = LeastSquaresProblem(torch.eye(4), torch.ones(4))
    >>> [expected_loss(problem, 1, tuned).mean for tuned in ("A", "B", "both")]
    [3.0, 3.0, 3.0]
    """
    check_rank(problem, rank, tuned)
    error, method = 0.0, "exact"
    if tuned == "both":
        gain, variance = float(problem.singular_values[:rank].square().sum()), 0.0
    elif tuned == "A":
        gain, variance = _gain_of_A(problem, rank)
    else:
        retention = _retention(problem, rank)
        energy = problem.signal_energy.cpu().numpy()
        gain, error, method = float(energy @ retention.mean), float(energy @ retention.error), retention.method
        variance = retention.gain_variance((problem.weighted_delta.T @ problem.weighted_delta).cpu().numpy())
    return ExpectedLoss(
        mean=problem.irreducible + max(0.0, problem.signal - gain),
        standard_deviation=math.sqrt(variance),
        error=error,
        gain_fraction=gain / problem.signal if problem.signal > 0 else math.nan,
        method=method,
    )


def asymmetry_index(problem: LeastSquaresProblem, rank: int) -> float:
    """Expected gain of training B alone over that of training A alone: above 1, freezing A is the better choice.

    The index is [sum m_i p_i] / [(rank / d_out) sum m_i], where m_i is the signal energy in input component i and p_i
    the part of it that a random A retains.

    - Square and isotropic: exactly 1. Isotropic: d_out / d_in.
    - d_in <= d_out and m_i non-decreasing in the variance s_i (as for an update that knows nothing of the inputs): at
      least 1, by Chebyshev's sum inequality; above 1 as soon as the spectrum is not flat.
    - m_i decreasing in s_i (an update hidden where the inputs vary least), or d_out well below d_in: below 1, freezing
      B wins. The paper's Theorem 4.3, read without a link between update and inputs, fails here.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        The problem, and the rank of the update.

    Returns
    -------
    float
        The ratio of the two gains.

    Raises
    ------
    ValueError
        The problem has no signal, or the rank exceeds d_in or d_out.

    References
    ----------
    docs/theory.md, section 1.2 (h).

    Examples
    --------
    >>> import torch
    >>> asymmetry_index(LeastSquaresProblem(torch.ones(6, 3), torch.ones(3)), 1)
    2.0
    """
    if problem.signal <= 0:
        raise ValueError("the problem has no signal, so neither factor gains anything; the index is 0/0")
    check_rank(problem, rank, "both")
    energy = problem.signal_energy.cpu().numpy()
    return float(energy @ _retention(problem, rank).mean) / (rank / problem.d_out * problem.signal)


def win_probability(problem: LeastSquaresProblem, rank: int) -> float:
    """Probability that freezing a random A beats freezing a random B: P[L(A*, U) >= L(Q, B*)].

    Exactly one half for a square isotropic problem, whatever the update and the rank. Elsewhere each gain, as a part of
    the signal, is taken to follow the Beta distribution with the mean and variance of `expected_loss`: exact for
    isotropic inputs and an update of rank one, an approximation otherwise: at most .04 beyond two standard errors of
    simulated shares in 2,300 settings of up to 30 inputs and 20 outputs. At rank 1, and where the frozen factor leaves
    out a single direction, at a rank one below d_out or below the rank of the covariance, a gain has another shape, and
    is drawn: the standard error of the probability is .004 at most. (At rank 1 only up to half a million weights;
    beyond them it can be .13 off for steep spectra.) Where
    both gains are certain it is 0, 1/2 or 1.

    Parameters
    ----------
    problem, rank : LeastSquaresProblem or int
        The problem, and the rank of the update.

    Returns
    -------
    float
        From 0 to 1; one half for a problem without signal.

    References
    ----------
    docs/theory.md, section 1.2 (h).

    Examples
    --------
    >>> import torch
    >>> win_probability(LeastSquaresProblem(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.ones(2)), 1)
    0.5
    """
    if problem.signal <= 0:
        return 0.5
    (mean_B, deviation_B), (mean_A, deviation_A) = (
        (law.gain_fraction, law.standard_deviation / problem.signal)
        for law in (expected_loss(problem, rank, "B"), expected_loss(problem, rank, "A"))
    )
    if math.isclose(mean_A, mean_B, rel_tol=1e-10) and math.isclose(
        deviation_A, deviation_B, rel_tol=1e-6, abs_tol=1e-9
    ):
        return 0.5
    of_B, of_A = BetaNull(mean_B, deviation_B), BetaNull(mean_A, deviation_A)
    drawn_B, drawn_A = (gains_of_one_direction(problem, rank, tuned) for tuned in FACTORS[::-1])
    if drawn_B is None and drawn_A is None:
        return probability_of_more(of_B, of_A)
    return share_of_wins(
        quantiles(of_B, QUANTILES) if drawn_B is None else drawn_B,
        quantiles(of_A, QUANTILES) if drawn_A is None else drawn_A,
    )[0]


def overtaking_rank(problem: LeastSquaresProblem) -> int | None:
    """The smallest rank r at which a random frozen A of rank 2r gains as much as joint training of rank r.

    On a square matrix both train the same number of parameters. At small ranks joint training is ahead, because it
    chooses its directions; freezing A catches up at the latest when 2r reaches the rank of the covariance.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The problem.

    Returns
    -------
    int or None
        None when 2r passes d_in before that.

    References
    ----------
    docs/theory.md, section 6.3 (same-size comparison).

    Examples
    --------
    >>> import torch
    >>> overtaking_rank(LeastSquaresProblem(torch.eye(6), torch.ones(6)))
    1
    """
    energy = problem.signal_energy.cpu().numpy()
    joint = problem.singular_values.square().cumsum(0).cpu().numpy()
    for rank in range(1, min(problem.d_in // 2, len(joint)) + 1):
        frozen = float(energy @ _retention(problem, 2 * rank).mean)
        if frozen >= joint[rank - 1] * (1 - 1e-12):
            return rank
    return None


def _gain_of_A(problem: LeastSquaresProblem, rank: int) -> tuple[float, float]:
    squares = problem.singular_values.square()
    return captured_energy_moments(float(squares.sum()), float(squares.square().sum()), problem.d_out, rank)


def _retention(problem: LeastSquaresProblem, rank: int) -> Retention:
    return random_retention(problem.eigenvalues.cpu().numpy().astype(np.float64), rank)
