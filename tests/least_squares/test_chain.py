"""Chains of frozen random factors and alternating training, against fits one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis.chance import chain_residual, random_retention
from asym_analysis.least_squares import (
    LeastSquaresProblem,
    alternating_path,
    chain_path,
    compare_chain,
    isotropic,
    low_rank,
    power_law,
    spiked,
    synthetic_problem,
)


@pytest.mark.parametrize("tuned", ["A", "B"])
def test_a_chain_is_a_sequence_of_merged_fits(tuned: str) -> None:
    """The mean loss of chains in which each block is fitted by the lemma and merged into the weight."""
    problem = synthetic_problem(power_law(14, 1.0), 10, noise_variance=0.05)
    rng = np.random.default_rng(0)
    losses = np.empty((600, 3))
    for draw in range(600):
        current = problem
        for block in range(3):
            if tuned == "B":
                fit = current.freeze_A(rng.standard_normal((2, 14)))
            else:
                fit = current.freeze_B(rng.standard_normal((10, 2)))
            losses[draw, block] = fit.loss
            current = LeastSquaresProblem(current.delta - fit.update, problem.covariance, 0.05)
    path = chain_path(problem, 2, 3, tuned).frame.iloc[1:]
    allowed = path.stated_error + 3.5 * losses.std(0) / 600**0.5
    assert (np.abs(losses.mean(0) - path.loss) < allowed).all()
    assert (path.stated_error < 0.05 * path.loss).all()


def test_flat_inputs_are_exact() -> None:
    left, error = chain_residual(np.ones(12), np.eye(12)[0], 3, 5)
    np.testing.assert_allclose(left, 0.75 ** np.arange(1, 6), rtol=1e-12)
    assert not error.any()


@pytest.mark.parametrize(
    "spectrum", [power_law(48, 1.0), power_law(48, 2.0), spiked(48, 4, 100.0)], ids=["1/i", "1/i^2", "spikes"]
)
@pytest.mark.parametrize("alignment", [1.0, -1.0])
@pytest.mark.parametrize("rank", [1, 6])
def test_stated_errors_cover_simulated_chains(spectrum: np.ndarray, alignment: float, rank: int) -> None:
    problem = synthetic_problem(spectrum, 24, alignment=alignment)
    comparison = compare_chain(problem, rank, 6, tuned="B", draws=150)
    frame = comparison.frame
    assert frame.agrees.all(), frame[["blocks", "theory", "stated_error", "loss", "standard_error"]]
    assert comparison.settings["along"] == "blocks"


def test_components_left_over_are_not_those_of_independent_draws() -> None:
    """Retaining each component on its own, (1 - p_i)^t, forgets that a projector mixes components."""
    problem = synthetic_problem(power_law(48, 1.0), 24)
    row = compare_chain(problem, 6, 6, tuned="B", draws=150).frame.iloc[-1]
    naive = problem.signal_energy.numpy() @ (1 - random_retention(power_law(48, 1.0), 6).mean) ** 6
    assert row.loss - naive > 5 * row.standard_error + row.stated_error


def test_inputs_on_a_subspace_are_learned_at_once() -> None:
    path = chain_path(synthetic_problem(low_rank(12, 3), 8, noise_variance=0.1), 4, 2)
    assert path.frame.loss.tolist()[1:] == pytest.approx([0.8, 0.8])
    assert path.settings["limit"] == pytest.approx(0.8)


def test_alternating_training_is_alternating_least_squares() -> None:
    problem = synthetic_problem(power_law(12, 1.0), 9, noise_variance=0.02)
    A = torch.randn(3, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = alternating_path(problem, 3, 8, A=A)
    losses = [problem.loss(torch.zeros(9, 12))]
    factor = A
    for step in range(8):
        fit = problem.freeze_A(factor) if step % 2 == 0 else problem.freeze_B(factor)
        losses.append(fit.loss)
        factor = fit.B if step % 2 == 0 else fit.A
    np.testing.assert_allclose(path.frame.loss, losses, rtol=1e-9)
    assert path.frame.tuned.tolist()[1:4] == ["B", "A", "B"]
    assert (np.diff(path.frame.loss) <= 1e-12).all()
    assert alternating_path(problem, 3, 400, A=A).frame.loss.iloc[-1] == pytest.approx(problem.joint(3).loss)


def test_the_first_half_step_is_a_frozen_A_on_average() -> None:
    problem = synthetic_problem(isotropic(10), 8)
    first = np.mean([alternating_path(problem, 2, 1, seed=seed).frame.loss[1] for seed in range(400)])
    assert first == pytest.approx(0.8, abs=0.01)


def test_an_update_of_lower_rank_is_reached_exactly() -> None:
    problem = synthetic_problem(power_law(10, 1.0), 8, delta_rank=2, noise_variance=0.1)
    assert alternating_path(problem, 4, 2).frame.loss.iloc[-1] == pytest.approx(0.8, abs=1e-9)


def test_wrong_requests_are_refused() -> None:
    problem = synthetic_problem(isotropic(6), 6)
    with pytest.raises(ValueError, match="blocks is 0"):
        chain_path(problem, 2, 0)
    with pytest.raises(ValueError, match="blocks is 0"):
        chain_residual(np.ones(3), np.ones(3), 1, 0)
    with pytest.raises(ValueError, match="A has shape"):
        alternating_path(problem, 2, 3, A=torch.ones(3, 6))
