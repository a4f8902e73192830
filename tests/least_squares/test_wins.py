"""Which random frozen factor wins where it leaves out a single direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    power_law,
    simulate,
    simulated_win_probability,
    spiked,
    synthetic_problem,
    win_probability,
)
from asym_analysis.least_squares.wins import gains_of_one_direction, share_of_wins


@pytest.mark.parametrize(
    ("problem", "rank"),
    [
        (synthetic_problem(power_law(20, 2.0), 20, seed=15), 19),  # a Beta distribution gives .948 for .994
        (synthetic_problem(power_law(12, 4.0), 8, seed=15), 7),  # .928 for .987: B alone leaves out one direction
        (synthetic_problem(spiked(60, 2, 1e3), 60, seed=15), 59),
        (synthetic_problem(spiked(15, 1, 1e3), 17, seed=15), 1),  # .86 for .99
        (synthetic_problem(power_law(13, 2.0), 2, seed=15), 1),
        (synthetic_problem(power_law(16, 3.0), 12, seed=2, delta_rank=12), 1),
        (
            synthetic_problem(np.append(power_law(14, 2.0), np.zeros(6)), 20, seed=15),
            13,
        ),  # A leaves out one of 14
    ],
)
def test_a_single_direction_kept_or_lost_wins_as_often_as_draws_do(problem: LeastSquaresProblem, rank: int) -> None:
    share, error = simulated_win_probability(problem, rank, 1000, seed=1)
    assert abs(win_probability(problem, rank) - share) < 0.004 + 3 * error


@pytest.mark.parametrize("tuned", ["A", "B"])
def test_gains_of_one_direction_are_those_of_fits(tuned: str) -> None:
    problem = synthetic_problem(power_law(9, 2.0), 9, seed=3)
    drawn = gains_of_one_direction(problem, 8, tuned)  # type: ignore[arg-type]
    fitted = np.sort(simulate(problem, 8, tuned, 4000, seed=0).frame["gain"].to_numpy() / problem.signal)
    assert drawn is not None
    at = np.array([0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
    np.testing.assert_allclose(np.searchsorted(fitted, np.quantile(drawn, at)) / len(fitted), at, atol=0.035)
    assert gains_of_one_direction(problem, 7, tuned) is None  # type: ignore[arg-type]


def test_an_exact_tie_stays_one() -> None:
    problem = LeastSquaresProblem(torch.eye(6), torch.ones(6))
    assert win_probability(problem, 5) == 0.5


def test_share_of_wins_counts_all_pairs_and_half_of_the_ties() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, 40) / 5, rng.integers(0, 5, 30) / 5
    counted = np.mean([(x > y) + (x == y) / 2 for x in one for y in other])
    share, error = share_of_wins(one, other)
    assert share == pytest.approx(counted)
    again = [share_of_wins(rng.integers(0, 5, 40) / 5, rng.integers(0, 5, 30) / 5)[0] for _ in range(400)]
    assert error == pytest.approx(np.std(again), rel=0.25)
