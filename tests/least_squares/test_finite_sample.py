"""Finite samples against fits to simulated data (T7), the gap, and who wins where."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    compare_finite_samples,
    expected_finite_sample_loss,
    isotropic,
    low_rank,
    power_law,
    synthetic_problem,
)
from asym_analysis.vocabulary import Tuned


def test_multipliers_at_the_papers_size() -> None:  # T7
    problem = synthetic_problem(power_law(60, 1.0), 40, noise_variance=0.7)
    tuned_B = expected_finite_sample_loss(problem, 5, 200, "B")
    assert tuned_B.mean / tuned_B.population == pytest.approx(1.02577, abs=5e-6)
    tuned_A = expected_finite_sample_loss(problem, 5, 200, "A")
    assert tuned_A.mean - tuned_A.population == pytest.approx(5 * 0.7 * 60 / 139, rel=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_multipliers_against_simulated_fits(exponent: float) -> None:
    problem = synthetic_problem(power_law(16, exponent), 10, noise_variance=0.05)
    table = compare_finite_samples(problem, 3, [24, 60], draws=500, seed=1).frame
    assert table.agrees.all(), table[["samples", "tuned", "z"]]
    assert set(table.tuned) == {"A", "B"}


@pytest.mark.parametrize(("exponent", "method"), [(0.0, "exact"), (1.0, "deterministic equivalent")])
def test_ridgeless_fits(exponent: float, method: str) -> None:
    problem = synthetic_problem(power_law(40, exponent), 10, noise_variance=0.05)
    table = compare_finite_samples(problem, 3, [10, 20], tuned=["A"], draws=500, seed=2).frame
    assert table.agrees.all(), table[["samples", "theory", "loss", "z"]]
    assert set(table.method) == {method}


def test_ridgeless_closed_form() -> None:
    problem = synthetic_problem(isotropic(40), 10, noise_variance=0.3)
    loss = expected_finite_sample_loss(problem, 3, 20, "A")
    energy = 3 / 10 * float((problem.delta**2).sum())
    assert loss.mean - loss.population == pytest.approx((1 - 20 / 40) * energy + 3 * 0.3 * 20 / 19, rel=1e-9)


def test_joint_training_pays_for_its_degrees_of_freedom() -> None:
    problem = synthetic_problem(power_law(12, 1.0), 8, noise_variance=0.02, delta_rank=2)
    table = compare_finite_samples(problem, 2, [400], tuned=["both"], draws=150).frame
    assert table.agrees.all()
    assert expected_finite_sample_loss(problem, 2, 400, "both").mean == pytest.approx(
        8 * 0.02 + 0.02 * (2 * 12 / 387 + 2 * 6 / 397)
    )
    with pytest.raises(ValueError, match="rank above 1"):
        expected_finite_sample_loss(problem, 1, 400, "both")


def test_inputs_on_a_subspace_cost_only_its_dimension() -> None:
    problem = synthetic_problem(low_rank(30, 4), 6, noise_variance=0.1)
    table = compare_finite_samples(problem, 2, [12], draws=800).frame
    assert table.agrees.all(), table[["tuned", "theory", "loss", "z"]]


def test_no_finite_mean_at_the_interpolation_threshold() -> None:
    problem = synthetic_problem(isotropic(20), 6, noise_variance=0.1)
    for samples in (19, 20, 21):
        assert expected_finite_sample_loss(problem, 2, samples, "A").mean == math.inf
    assert expected_finite_sample_loss(problem, 2, 3, "B").mean == math.inf
    assert math.isfinite(expected_finite_sample_loss(problem, 2, 4, "B").mean)


def test_the_winner_changes_with_samples_and_with_noise() -> None:
    def winner(problem: LeastSquaresProblem, rank: int, samples: int, noise: float) -> str:
        noisy = LeastSquaresProblem(problem.delta, problem.covariance, noise)
        return min("AB", key=lambda tuned: expected_finite_sample_loss(noisy, rank, samples, tuned).mean)

    problem = synthetic_problem(isotropic(60), 40)
    assert winner(problem, 5, 70, 1.0) == "B"  # training A has to estimate sixty coefficients from seventy samples
    assert winner(problem, 5, 200, 0.001) == "A"  # without noise the misfit of training B is the larger cost
    # Square isotropic: population losses are equal, so the cost of estimation decides.
    square = synthetic_problem(isotropic(30), 30)
    assert winner(square, 4, 40, 10.0) == "B"
    assert winner(square, 4, 100, 1e-9) == "A"


@pytest.mark.parametrize(("delta_rank", "samples"), [(1, 400), (2, 200), (2, 1000), (4, 1000)])
def test_directions_that_the_update_does_not_fill_fit_noise(delta_rank: int, samples: int) -> None:
    """Rank 4 trained on an update of lower rank: the spare directions take the strongest noise."""
    problem = synthetic_problem(power_law(30, 0.5), 15, noise_variance=0.02, delta_rank=delta_rank)
    problem = LeastSquaresProblem(3 * problem.delta, problem.covariance, 0.02)
    table = compare_finite_samples(problem, 4, samples, tuned="both", draws=200, seed=3).frame
    assert table.agrees.all(), table[["theory", "stated_error", "loss", "standard_error"]]
    excess = table.theory[0] - problem.irreducible
    assert table.stated_error[0] < 0.5 * excess
    naive = 0.02 * delta_rank * (30 + 15 - delta_rank) / samples
    if delta_rank < 4:
        assert table.loss[0] - problem.irreducible > 1.2 * naive


@pytest.mark.parametrize("samples", [24, 30, 42, 120])
@pytest.mark.parametrize("delta_rank", [0, 1, 3, 5])
def test_joint_training_on_hardly_more_samples_than_inputs(delta_rank: int, samples: int) -> None:
    """1/n in place of 1/(n-p-1) gave a fifth of the loss at n = p + 4, with an error of half of it."""
    problem = synthetic_problem(power_law(20, 1.0), 9, noise_variance=0.02, delta_rank=max(delta_rank, 1))
    problem = LeastSquaresProblem(20 * bool(delta_rank) * problem.delta, problem.covariance, 0.02)
    table = compare_finite_samples(problem, 5, samples, tuned="both", draws=300, seed=delta_rank).frame
    assert table.agrees.all(), table[["theory", "stated_error", "loss", "standard_error"]]
    assert (table.method[0] == "exact") == (delta_rank == 0)


def test_an_update_below_the_noise_cannot_be_told() -> None:
    problem = synthetic_problem(power_law(30, 0.5), 15, noise_variance=2.0, delta_rank=3)
    loss = expected_finite_sample_loss(problem, 3, 80, "both")
    assert loss.method == "cannot tell"
    assert math.isnan(loss.mean)
    assert loss.population == pytest.approx(30.0)
    assert expected_finite_sample_loss(problem, 3, 31, "both").method == "cannot tell"
    with pytest.raises(ValueError, match="give more samples"):
        compare_finite_samples(problem, 3, 80, tuned="both", draws=10)


def test_what_has_no_formula_is_refused() -> None:
    problem = synthetic_problem(isotropic(6), 6, noise_variance=0.1)
    with pytest.raises(ValueError, match="samples is 0"):
        expected_finite_sample_loss(problem, 2, 0, "A")
    shifted = LeastSquaresProblem.with_frozen_bias(np.eye(2), np.eye(2), 0.1, mean=np.zeros(2), bias_offset=np.ones(2))
    with pytest.raises(ValueError, match="floor"):
        expected_finite_sample_loss(shifted, 1, 10, "B")


def fitted_losses(delta: np.ndarray, noise: float, rank: int, samples: int, tuned: str, draws: int = 300) -> np.ndarray:
    """Losses on new data of least-norm fits with a random frozen factor, by NumPy alone; the inputs are N(0, I)."""
    draw = np.random.default_rng(0)
    d_out, d_in = delta.shape
    found = []
    for _ in range(draws):
        x = draw.standard_normal((samples, d_in))
        y = x @ delta.T + noise**0.5 * draw.standard_normal((samples, d_out))
        if tuned == "B":
            A = draw.standard_normal((rank, d_in))
            update = (np.linalg.pinv(x @ A.T) @ y).T @ A
        else:
            U = np.linalg.qr(draw.standard_normal((d_out, rank)))[0]
            update = U @ (np.linalg.pinv(x) @ y @ U).T
        found.append(((delta - update) ** 2).sum() + d_out * noise)
    return np.array(found)


def test_B_on_fewer_samples_than_its_rank_is_not_told_an_infinite_loss() -> None:
    """A least-norm fit passes through them: rank 6 on one sample loses 1.8 where infinity was stated."""
    problem = synthetic_problem(isotropic(20), 5, noise_variance=0.1)
    for samples in (1, 2, 4):
        told = expected_finite_sample_loss(problem, 6, samples, "B")
        assert (told.method, math.isnan(told.mean)) == ("cannot tell", True)
        losses = fitted_losses(problem.delta.numpy(), 0.1, 6, samples, "B")
        assert losses.mean() < 10
    assert [expected_finite_sample_loss(problem, 6, n, "B").mean for n in (5, 6, 7)] == [math.inf] * 3


@pytest.mark.parametrize(("tuned", "rank", "sizes"), [("A", 3, (5, 6, 7, 8)), ("B", 6, (6, 7, 8))])
def test_without_noise_no_number_of_samples_makes_a_loss_infinite(
    tuned: Tuned, rank: int, sizes: tuple[int, ...]
) -> None:
    problem = synthetic_problem(isotropic(6), 4)
    for samples in sizes:
        told = expected_finite_sample_loss(problem, rank, samples, tuned)
        losses = fitted_losses(problem.delta.numpy(), 0.0, rank, samples, tuned)
        assert told.method == "exact"
        assert told.mean == pytest.approx(losses.mean(), abs=4 * losses.std() / len(losses) ** 0.5 + 1e-9)
