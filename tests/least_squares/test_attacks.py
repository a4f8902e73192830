"""Data that break what the finite-sample predictions assume: docs/attacks_on_analyses.md lists them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    descent_path,
    expected_finite_sample_loss,
    isotropic,
    synthetic_problem,
    train_beyond_linear,
)
from asym_analysis.least_squares.input_check import objection_to

SIZE = 24


def problem(live: int = SIZE) -> LeastSquaresProblem:
    covariance = torch.arange(1, SIZE + 1, dtype=torch.float64) ** -1.0 * (torch.arange(SIZE) < live)
    delta = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LeastSquaresProblem(delta, covariance, 0.1)


def inputs(law: str, samples: int, seed: int, live: int = SIZE) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    if law == "t by entry":
        drawn = rng.standard_t(3, (samples, SIZE)) / math.sqrt(3)
    elif law == "t by sample":
        drawn = rng.standard_normal((samples, SIZE)) / np.sqrt(rng.chisquare(3, (samples, 1)))
    else:
        drawn = rng.standard_normal((samples, SIZE))
    if law == "repeated":
        drawn = np.repeat(drawn[: samples // 4], 4, 0)
    if law == "in order":
        drawn = np.cumsum(drawn, 0) / np.sqrt(np.arange(1, samples + 1))[:, None]
    if law == "wider":
        drawn *= 1.3
    return torch.from_numpy(drawn) * problem(live).covariance.diagonal().sqrt()


@pytest.mark.parametrize("law", ["t by entry", "t by sample", "repeated", "in order", "wider"])
@pytest.mark.parametrize("tuned", ["A", "B"])
def test_inputs_that_are_not_gaussian_or_not_independent_get_no_number(law: str, tuned: str) -> None:
    untold = 0
    for seed in range(20):
        shown = inputs(law, 60, seed)
        found = expected_finite_sample_loss(problem(), 3, 60, tuned, inputs=shown)  # type: ignore[arg-type]
        untold += found.method == "cannot tell"
        assert (found.objection != "") == (found.method == "cannot tell") == math.isnan(found.mean)
    assert untold >= 18


@pytest.mark.parametrize(("samples", "live"), [(12, SIZE), (60, SIZE), (240, SIZE), (60, 10)])
def test_gaussian_inputs_get_the_same_number_as_none(samples: int, live: int) -> None:
    told = expected_finite_sample_loss(problem(live), 3, samples, "B")
    shown = [inputs("Gaussian", samples, seed, live) for seed in range(50)]
    found = [expected_finite_sample_loss(problem(live), 3, samples, "B", inputs=each) for each in shown]
    assert sum(each == told for each in found) >= 49


def test_inputs_outside_the_covariance_are_seen_and_shapes_are_checked() -> None:
    assert objection_to(inputs("Gaussian", 60, 0), problem(10)) == "inputs lie outside the range of the covariance"
    with pytest.raises(ValueError, match="give finite numbers"):
        objection_to(torch.ones(4, 3), problem())
    with pytest.raises(ValueError, match="give finite numbers"):
        objection_to(torch.full((4, SIZE), math.nan), problem())


def test_a_rate_beyond_stability_is_said_to_grow() -> None:
    """With B frozen the loss of A falls only below 2 over the largest rate: LoRA+ multiplies one of the two rates."""
    held = LeastSquaresProblem(torch.eye(2), torch.tensor([4.0, 1.0]))
    A = torch.tensor([[1.0, 0.0]])
    calm, wild = (descent_path(held, learning_rate=rate, steps=30, A=A).frame.loss for rate in (0.2, 0.6))
    assert calm.iloc[-1] < calm.iloc[0] < wild.iloc[-1]


def test_a_rate_on_the_edge_of_stability_stays_and_directions_without_signal_do_not_count() -> None:
    one = torch.tensor([[1.0, 0.0]])
    path = descent_path(LeastSquaresProblem(one, torch.ones(2)), learning_rate=2.0, steps=3, A=torch.eye(2))
    assert path.frame.loss.tolist() == [1.0] * 4
    assert path.settings["limit"] == 1.0  # it was 0
    wild = LeastSquaresProblem(one, torch.tensor([0.5, 1000.0]))
    for frozen in ({"A": torch.eye(2)}, {"B": torch.ones(1, 1)}):
        path = descent_path(wild, learning_rate=1.0, steps=600, **frozen)
        assert path.frame.loss.tolist() == pytest.approx([0.5 ** (1 + 2 * step) for step in range(601)])
        assert path.settings["limit"] == 0.0
    path = descent_path(LeastSquaresProblem(one, torch.ones(2)), learning_rate=1e200, steps=4, A=torch.eye(2))
    assert path.frame.loss.tolist()[1:] == [math.inf] * 4  # it was NaN


@pytest.mark.parametrize("strength", [1e-3, 1e4])
def test_the_scale_of_the_update_does_not_decide_how_far_both_factors_are_trained(strength: float) -> None:
    problem = synthetic_problem(isotropic(16), 8)
    told = train_beyond_linear(problem, 4, "linear", tuned="both", strength=strength, samples=512, draws=2).summary()
    assert told.gain_fraction[0] == pytest.approx(told.linear_theory[0], abs=0.03)  # .22 and .46 of .80
