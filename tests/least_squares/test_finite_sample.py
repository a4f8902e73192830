"""Finite samples against fits to simulated data (T7), the gap, and who wins where."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    compare_finite_samples,
    expected_finite_sample_loss,
    expected_generalization_gap,
    expected_loss,
    head_to_head,
    isotropic,
    low_rank,
    power_law,
    synthetic_problem,
)


def test_multipliers_at_the_papers_size() -> None:  # T7
    problem = synthetic_problem(power_law(60, 1.0), 40, noise_variance=0.7)
    tuned_B = expected_finite_sample_loss(problem, 5, 200, "B")
    assert tuned_B.mean / tuned_B.population == pytest.approx(1.02577, abs=5e-6)
    tuned_A = expected_finite_sample_loss(problem, 5, 200, "A")
    assert tuned_A.mean - tuned_A.population == pytest.approx(5 * 0.7 * 60 / 139, rel=1e-12)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_multipliers_against_simulated_fits(exponent: float) -> None:
    problem = synthetic_problem(power_law(16, exponent), 10, noise_variance=0.05)
    table = compare_finite_samples(problem, 3, [24, 60], draws=500, seed=1)
    assert table.agrees.all(), table[["samples", "tuned", "z"]]
    assert set(table.tuned) == {"A", "B"}


@pytest.mark.parametrize(("exponent", "method"), [(0.0, "exact"), (1.0, "deterministic equivalent")])
def test_ridgeless_fits(exponent: float, method: str) -> None:
    problem = synthetic_problem(power_law(40, exponent), 10, noise_variance=0.05)
    table = compare_finite_samples(problem, 3, [10, 20], tuned=["A"], draws=500, seed=2)
    assert table.agrees.all(), table[["samples", "theory", "loss", "z"]]
    assert set(table.method) == {method}


def test_ridgeless_closed_form() -> None:
    problem = synthetic_problem(isotropic(40), 10, noise_variance=0.3)
    loss = expected_finite_sample_loss(problem, 3, 20, "A")
    energy = 3 / 10 * float((problem.delta**2).sum())
    assert loss.mean - loss.population == pytest.approx((1 - 20 / 40) * energy + 3 * 0.3 * 20 / 19, rel=1e-9)


def test_joint_training_pays_for_its_degrees_of_freedom() -> None:
    problem = synthetic_problem(power_law(12, 1.0), 8, noise_variance=0.02, delta_rank=2)
    table = compare_finite_samples(problem, 2, [400], tuned=["both"], draws=150)
    assert table.agrees.all()
    assert expected_finite_sample_loss(problem, 2, 400, "both").mean == pytest.approx(8 * 0.02 + 0.02 * 2 * 18 / 400)
    with pytest.raises(ValueError, match="rank above 1"):
        expected_finite_sample_loss(problem, 1, 400, "both")


def test_inputs_on_a_subspace_cost_only_its_dimension() -> None:
    problem = synthetic_problem(low_rank(30, 4), 6, noise_variance=0.1)
    table = compare_finite_samples(problem, 2, [12], draws=800)
    assert table.agrees.all(), table[["tuned", "theory", "loss", "z"]]


def test_no_finite_mean_at_the_interpolation_threshold() -> None:
    problem = synthetic_problem(isotropic(20), 6, noise_variance=0.1)
    for samples in (19, 20, 21):
        assert expected_finite_sample_loss(problem, 2, samples, "A").mean == math.inf
    assert expected_finite_sample_loss(problem, 2, 3, "B").mean == math.inf
    assert math.isfinite(expected_finite_sample_loss(problem, 2, 4, "B").mean)


def test_the_winner_changes_with_samples_and_with_noise() -> None:
    problem = synthetic_problem(isotropic(60), 40)
    table = head_to_head(problem, 5, [70, 200], [0.001, 1.0]).set_index(["noise_variance", "samples"]).winner
    assert table[1.0, 70] == "B"  # tuning A has to estimate sixty coefficients from seventy samples
    assert table[0.001, 200] == "A"  # without noise the misfit of tuning B is the larger cost
    # Square isotropic: population losses are equal, so the cost of estimation decides.
    square = synthetic_problem(isotropic(30), 30)
    assert head_to_head(square, 4, [40], [10.0]).winner.tolist() == ["B"]
    assert head_to_head(square, 4, [100], [1e-9]).winner.tolist() == ["A"]


def test_the_gap_is_test_minus_training_loss() -> None:
    problem = synthetic_problem(power_law(12, 1.0), 5, noise_variance=0.1)
    rng = np.random.default_rng(0)
    rank, samples, draws = 2, 30, 1500
    delta, root = problem.delta.numpy(), np.linalg.cholesky(problem.covariance.numpy())
    gaps: dict[str, list[float]] = {"A": [], "B": []}
    for _ in range(draws):
        x = rng.standard_normal((samples, 12)) @ root.T
        y = x @ delta.T + math.sqrt(0.1) * rng.standard_normal((samples, 5))
        Q = rng.standard_normal((rank, 12))
        U = np.linalg.qr(rng.standard_normal((5, rank)))[0]
        B = np.linalg.lstsq(x @ Q.T, y, rcond=None)[0].T
        A = np.linalg.lstsq(x, y @ U, rcond=None)[0].T
        for way, update in (("B", B @ Q), ("A", U @ A)):
            training = ((y - x @ update.T) ** 2).sum(1).mean()
            gaps[way].append(problem.loss(torch.from_numpy(update)) - training)
    for way, measured in gaps.items():
        error = np.std(measured) / draws**0.5
        slack = 0.4 * expected_loss(problem, rank, way).error
        assert abs(np.mean(measured) - expected_generalization_gap(problem, rank, samples, way)) < 3 * error + slack


def test_what_has_no_formula_is_refused() -> None:
    problem = synthetic_problem(isotropic(6), 6, noise_variance=0.1)
    with pytest.raises(ValueError, match="exact gap"):
        expected_generalization_gap(problem, 2, 50, "both")
    with pytest.raises(ValueError, match="finite expected loss"):
        expected_generalization_gap(problem, 2, 7, "A")
    with pytest.raises(ValueError, match="at least one"):
        expected_finite_sample_loss(problem, 2, 0, "A")
    shifted = LeastSquaresProblem.with_frozen_bias(np.eye(2), np.eye(2), 0.1, mean=np.zeros(2), bias_offset=np.ones(2))
    with pytest.raises(ValueError, match="floor"):
        expected_finite_sample_loss(shifted, 1, 10, "B")
