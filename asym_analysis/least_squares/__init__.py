"""EXPLAIN: least-squares models in which the asymmetry of A and B has closed forms. Knows no adapter.

`LeastSquaresProblem` is the model; `expected_loss`, `asymmetry_index` and `win_probability` say which factor is better
frozen; `simulate` and `compare_theory` lay simulation under the theory.
"""

from asym_analysis.least_squares.dynamics import condition_number, descent_path, initialization_scales
from asym_analysis.least_squares.finite_sample import (
    FiniteSampleLoss,
    compare_finite_samples,
    expected_finite_sample_loss,
    expected_generalization_gap,
    head_to_head,
)
from asym_analysis.least_squares.noisy_information import information_against_gap, noisy_fit_information
from asym_analysis.least_squares.nonlinear import train_beyond_linear
from asym_analysis.least_squares.problem import LeastSquaresProblem, LowRankFit
from asym_analysis.least_squares.regimes import compare_strategies, regime_map, simulated_win_probability
from asym_analysis.least_squares.similarity import (
    first_step_similarity,
    simulate_first_step_similarity,
    trained_similarity,
)
from asym_analysis.least_squares.simulation import Simulation, compare_theory, simulate, sweep
from asym_analysis.least_squares.spectra import (
    covariance_from_data,
    exponential,
    isotropic,
    low_rank,
    power_law,
    problem_from_energy,
    spiked,
    synthetic_problem,
)
from asym_analysis.least_squares.theory import (
    ExpectedLoss,
    asymmetry_index,
    expected_loss,
    overtaking_rank,
    win_probability,
)
from asym_analysis.least_squares.validation import validate

__all__ = [
    "ExpectedLoss",
    "FiniteSampleLoss",
    "LeastSquaresProblem",
    "LowRankFit",
    "Simulation",
    "asymmetry_index",
    "compare_finite_samples",
    "compare_strategies",
    "compare_theory",
    "condition_number",
    "covariance_from_data",
    "descent_path",
    "expected_finite_sample_loss",
    "expected_generalization_gap",
    "expected_loss",
    "exponential",
    "first_step_similarity",
    "head_to_head",
    "information_against_gap",
    "initialization_scales",
    "isotropic",
    "low_rank",
    "noisy_fit_information",
    "overtaking_rank",
    "power_law",
    "problem_from_energy",
    "regime_map",
    "simulate",
    "simulate_first_step_similarity",
    "simulated_win_probability",
    "spiked",
    "sweep",
    "synthetic_problem",
    "train_beyond_linear",
    "trained_similarity",
    "validate",
    "win_probability",
]
