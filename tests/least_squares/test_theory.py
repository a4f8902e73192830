"""Expected losses and who wins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    asymmetry_index,
    compare_strategies,
    expected_loss,
    isotropic,
    low_rank,
    overtaking_rank,
    power_law,
    problem_from_energy,
    simulate,
    simulated_win_probability,
    synthetic_problem,
    win_probability,
)


class TestWhoWins:
    def test_isotropic_square_is_a_coin_toss_whatever_the_update(self) -> None:  # T6
        for delta_rank in (1, None):
            problem = synthetic_problem(isotropic(64), 64, delta_rank=delta_rank)
            assert win_probability(problem, 4) == 0.5
            assert asymmetry_index(problem, 4) == pytest.approx(1.0, rel=1e-10)
            share, error = simulated_win_probability(problem, 4, 2000, seed=0)
            assert abs(share - 0.5) < 3 * error
            assert error < 0.02

    # docs/theory.md, section 1.2 (h), d = 256 and r = 8: gains with A frozen, with B frozen, and who wins
    TABLE = (
        ("blind update", lambda: synthetic_problem(power_law(256, 1.0), 256), 0.2176, 0.0313, 1.0),
        ("bottom half", lambda: _bottom_half(256), 0.0095, 0.0312, 0.0),
        (
            "inverse covariance",
            lambda: synthetic_problem(power_law(256, 1.0), 256, alignment=-1.0),
            0.0128,
            0.0312,
            0.0,
        ),
        ("wide", lambda: synthetic_problem(isotropic(1024), 256), 0.0078, 0.0313, 0.0),
        ("tall", lambda: synthetic_problem(isotropic(256), 1024), 0.0312, 0.0078, 1.0),
        ("one weak direction", lambda: _one_weak_direction(256), 0.0003, 0.0313, 0.0),
    )

    @pytest.mark.parametrize(("name", "make", "gain_B", "gain_A", "wins"), TABLE, ids=[row[0] for row in TABLE])
    def test_the_table_of_counterexamples(self, name: str, make, gain_B: float, gain_A: float, wins: float) -> None:
        problem = make()
        assert expected_loss(problem, 8, "B").gain_fraction == pytest.approx(gain_B, abs=2.5e-3 if wins else 1.5e-4)
        assert expected_loss(problem, 8, "A").gain_fraction == pytest.approx(gain_A, abs=1.5e-4)
        assert win_probability(problem, 8) == pytest.approx(wins, abs=0.005)
        share, _ = simulated_win_probability(problem, 8, 200, seed=1)
        assert share == pytest.approx(wins, abs=0.01)
        assert (asymmetry_index(problem, 8) > 1) == (wins == 1.0)

    def test_equal_energies_are_nearly_a_tie(self) -> None:  # T6: .54 at d = 256
        problem = synthetic_problem(power_law(256, 1.0), 256, alignment=0.0)
        share, error = simulated_win_probability(problem, 8, 1000, seed=0)
        assert asymmetry_index(problem, 8) == pytest.approx(1.0, abs=1e-6)
        assert abs(share - win_probability(problem, 8)) < 0.06 + 3 * error

    @given(st.floats(0.1, 2.0), st.floats(0.0, 3.0), st.integers(0, 20), st.integers(1, 8))
    def test_non_decreasing_energies_favour_freezing_A(
        self, exponent: float, alignment: float, extra: int, rank: int
    ) -> None:
        problem = synthetic_problem(power_law(16, exponent), 16 + extra, alignment=alignment)
        assert asymmetry_index(problem, rank) >= 1 - 1e-9

    def test_joint_training_wins_the_same_budget_then_is_overtaken(self) -> None:
        problem = synthetic_problem(power_law(128, 1.0), 128)
        table = compare_strategies(problem, 8).frame.set_index("strategy").gain_fraction
        assert (
            table["joint"] > table["principal A"] > table["random A, rank 2r"] > table["random A"] > table["random B"]
        )
        rank = overtaking_rank(problem)
        assert rank is not None
        before = compare_strategies(problem, [rank - 1, rank]).frame.pivot(
            index="rank", columns="strategy", values="gain_fraction"
        )
        ahead = before["random A, rank 2r"] >= before["joint"] * (1 - 1e-12)
        assert ahead.tolist() == [False, True]

    def test_an_update_of_low_rank_is_overtaken_only_at_the_covariances_rank(self) -> None:
        assert overtaking_rank(synthetic_problem(power_law(32, 1.0), 32, delta_rank=2)) == 16

    def test_the_published_gains_of_a_wide_power_law(self) -> None:
        problem = synthetic_problem(power_law(512, 1.0), 128)
        gains = compare_strategies(problem, 8).frame.set_index("strategy").gain_fraction
        assert gains["random A, rank 2r"] == pytest.approx(0.276, abs=0.001)
        assert gains["principal A"] == pytest.approx(0.399, abs=0.001)

    def test_certain_gains(self) -> None:
        problem = synthetic_problem(low_rank(12, 3), 12)
        loss = expected_loss(problem, 3, "B")
        assert loss.mean == pytest.approx(0.0, abs=1e-12)
        assert loss.standard_deviation == 0.0
        assert win_probability(problem, 3) == pytest.approx(1.0)

    def test_no_signal(self) -> None:
        empty = LeastSquaresProblem(np.zeros((3, 3)), np.eye(3), 1.0)
        assert expected_loss(empty, 1, "B").mean == 3.0
        assert np.isnan(expected_loss(empty, 1, "A").gain_fraction)
        with pytest.raises(ValueError, match="no signal"):
            asymmetry_index(empty, 1)


def test_simulation_meets_the_exact_moments_of_a_frozen_B() -> None:
    problem = synthetic_problem(power_law(20, 1.0), 12)
    gains = simulate(problem, 3, "A", 4000, seed=0).frame["gain"]
    expected = expected_loss(problem, 3, "A")
    assert gains.std() == pytest.approx(expected.standard_deviation, rel=0.06)


def _bottom_half(d: int) -> LeastSquaresProblem:
    spectrum = power_law(d, 1.0)
    return problem_from_energy(spectrum, np.where(np.arange(d) < d // 2, 0.0, spectrum), d)


def _one_weak_direction(d: int) -> LeastSquaresProblem:
    """One low-variance direction (0.01) carries an update of rank one, all other inputs have variance one."""
    spectrum = np.where(np.arange(d) < d - 1, 1.0, 0.01)
    return problem_from_energy(spectrum, np.where(np.arange(d) < d - 1, 0.0, 1.0), d)
