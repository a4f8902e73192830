"""Moments, the effective dimension and who wins: theory notes T3 to T6."""

from __future__ import annotations

from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    asymmetry_index,
    captured_energy_moments,
    compare_strategies,
    effective_dimension_penalty,
    expected_compression,
    expected_loss,
    isotropic,
    low_rank,
    overtaking_rank,
    power_law,
    power_law_penalty,
    problem_from_energy,
    random_retention,
    rank_one_retention,
    simulate,
    simulated_win_probability,
    spiked,
    synthetic_problem,
    win_probability,
)


def haar(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Orthonormal columns, uniform: QR with the signs of R's diagonal."""
    q, r = np.linalg.qr(rng.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


class TestHaarMoments:
    def test_mean_and_variance_of_the_captured_energy(self) -> None:  # T3
        rng = np.random.default_rng(0)
        K = np.diag([5.0, 2.0, 1.0, 0.5, 0.1, 0.1])
        energies = np.array([np.trace(U.T @ K @ U) for U in (haar(rng, 6, 2) for _ in range(20_000))])
        mean, variance = captured_energy_moments(np.trace(K), np.trace(K @ K), 6, 2)
        assert mean == pytest.approx(2 / 6 * np.trace(K))
        assert abs(energies.mean() - mean) < 4 * energies.std() / 20_000**0.5
        spread = ((energies - mean) ** 2).std() / 20_000**0.5
        assert abs(energies.var() - variance) < 4 * spread

    @given(st.integers(2, 40), st.floats(0.1, 10.0))
    def test_no_variance_for_a_multiple_of_the_identity(self, d: int, scale: float) -> None:
        assert captured_energy_moments(scale * d, scale**2 * d, d, 1)[1] == pytest.approx(0.0, abs=1e-12 * scale**2)

    def test_expected_compression_against_haar_draws(self) -> None:
        rng = np.random.default_rng(1)
        sigma = np.diag([4.0, 2.0, 1.0, 0.5, 0.25])
        total = np.zeros((5, 5))
        draws = 20_000
        for _ in range(draws):
            Q = haar(rng, 5, 2)
            projector = Q @ Q.T
            total += projector @ sigma @ projector
        theory = expected_compression(torch.from_numpy(sigma), 2).numpy()
        assert np.abs(total / draws - theory).max() < 0.03
        assert theory[0, 0] > 0.5


class TestEffectiveDimension:
    @given(
        st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=60),
        st.floats(0.05, 0.95),
    )
    def test_the_penalty_solves_its_equation(self, values: list[float], part: float) -> None:  # T4
        spectrum = np.array(values)
        dimension = part * len(spectrum)
        penalty = effective_dimension_penalty(spectrum, dimension)
        assert (spectrum / (spectrum + penalty)).sum() == pytest.approx(dimension, rel=1e-9)

    def test_isotropic_and_low_rank_inputs(self) -> None:  # T4
        assert effective_dimension_penalty(isotropic(256), 8) == pytest.approx(256 / 8 - 1, rel=1e-12)
        flat = random_retention(isotropic(256), 8)
        np.testing.assert_allclose(flat.mean, 8 / 256, rtol=1e-12)
        for rank in (5, 6):
            small = random_retention(low_rank(30, 5), rank)
            assert small.penalty == 0.0
            np.testing.assert_array_equal(small.mean, [1.0] * 5 + [0.0] * 25)

    @pytest.mark.parametrize(("rank", "gain"), [(8, 0.1828), (16, 0.2782), (32, 0.3915)])
    def test_power_law_gain_of_the_deterministic_equivalent(self, rank: int, gain: float) -> None:  # T5
        spectrum = power_law(512, 1.0)
        equivalent = random_retention(spectrum, rank).equivalent
        assert float(spectrum @ equivalent) / spectrum.sum() == pytest.approx(gain, abs=5e-5)

    @pytest.mark.parametrize(
        ("rank", "measured", "error"), [(8, 0.180, 0.001), (16, 0.2758, 0.001), (32, 0.3897, 0.001)]
    )
    def test_corrected_gain_meets_the_measured_one(self, rank: int, measured: float, error: float) -> None:  # T5
        spectrum = power_law(512, 1.0)
        retention = random_retention(spectrum, rank)
        corrected = float(spectrum @ retention.mean) / spectrum.sum()
        assert abs(corrected - measured) < 2 * error
        assert abs(corrected - measured) < abs(float(spectrum @ retention.equivalent) / spectrum.sum() - measured)

    def test_infinite_power_law(self) -> None:
        assert power_law_penalty(2.0, 8) == pytest.approx(0.03415, abs=5e-6)
        assert effective_dimension_penalty(power_law(5000, 2.0), 8) == pytest.approx(0.03410, abs=5e-6)


class TestRetention:
    def test_single_row_is_exact(self) -> None:
        spectrum = power_law(200, 1.0)
        kept = rank_one_retention(spectrum)
        assert kept.sum() == pytest.approx(1.0, abs=1e-10)
        assert kept[0] == pytest.approx(0.1406, abs=5e-5)

    def test_single_row_against_an_arbitrary_precision_integral(self) -> None:
        values = [3.0, 1.0, 0.25, 0.01]

        def integrand(i: int, t: mpmath.mpf) -> mpmath.mpf:
            return values[i] / (1 + 2 * values[i] * t) / mpmath.sqrt(mpmath.fprod(1 + 2 * s * t for s in values))

        ends = [0, 1, 10, 100, 1e4, mpmath.inf]
        exact = [float(mpmath.quad(partial(integrand, i), ends)) for i in range(4)]
        np.testing.assert_allclose(rank_one_retention(np.array(values)), exact, rtol=1e-8)

    @given(
        st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=40),
        st.integers(1, 39),
    )
    def test_fractions_sum_to_the_rank_and_stay_between_zero_and_one(self, values: list[float], rank: int) -> None:
        retention = random_retention(np.array(values), rank)
        assert retention.mean.sum() == pytest.approx(min(rank, len(values)), rel=1e-8)
        assert (retention.mean >= -1e-12).all()
        assert (retention.mean <= 1 + 1e-12).all()

    @pytest.mark.parametrize("spectrum", [power_law(64, 1.5), spiked(64, 4, 10.0)], ids=["power law", "spikes"])
    @pytest.mark.parametrize("rank", [2, 6])
    def test_correction_error_and_variance_against_haar_draws(self, spectrum: np.ndarray, rank: int) -> None:
        rng = np.random.default_rng(2)
        retained = []
        for _ in range(6000):
            basis = np.linalg.qr(np.sqrt(spectrum)[:, None] * haar(rng, 64, rank))[0]
            retained.append((basis**2).sum(1))
        retained = np.array(retained)
        retention = random_retention(spectrum, rank)
        for weights in (spectrum / spectrum.sum(), spectrum**-0.5 / (spectrum**-0.5).sum()):
            gains = retained @ weights
            error = gains.std() / 6000**0.5
            assert abs(gains.mean() - weights @ retention.mean) < weights @ retention.error + 3 * error
            assert abs(gains.mean() - weights @ retention.mean) < 0.6 * abs(
                gains.mean() - weights @ retention.equivalent
            )
            assert retention.gain_variance(np.diag(weights)) ** 0.5 == pytest.approx(gains.std(), rel=0.12)

    def test_variance_counts_correlated_components(self) -> None:
        rng = np.random.default_rng(3)
        spectrum = power_law(40, 1.0)
        M = rng.standard_normal((3, 40)) * np.sqrt(spectrum)
        gains = []
        for _ in range(6000):
            basis = np.linalg.qr(np.sqrt(spectrum)[:, None] * rng.standard_normal((40, 5)))[0]
            gains.append(((M @ basis) ** 2).sum())
        assert random_retention(spectrum, 5).gain_variance(M.T @ M) ** 0.5 == pytest.approx(np.std(gains), rel=0.12)

    def test_variance_is_exact_for_flat_inputs(self) -> None:
        K = np.diag([3.0, 1.0, 0.0, 0.0, 2.0])
        _, variance = captured_energy_moments(np.trace(K), np.trace(K @ K), 5, 2)
        assert random_retention(isotropic(5), 2).gain_variance(K) == pytest.approx(variance, rel=1e-12)


class TestWhoWins:
    def test_isotropic_square_is_a_coin_toss_whatever_the_update(self) -> None:  # T6
        for delta_rank in (1, None):
            problem = synthetic_problem(isotropic(64), 64, delta_rank=delta_rank)
            assert win_probability(problem, 4) == 0.5
            assert asymmetry_index(problem, 4) == pytest.approx(1.0, rel=1e-10)
            share, error = simulated_win_probability(problem, 4, 2000, seed=0)
            assert abs(share - 0.5) < 3 * error
            assert error < 0.02

    # theory notes, section 1.2 (h), d = 256 and r = 8: gains with A frozen, with B frozen, and who wins
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
        table = compare_strategies(problem, [8]).set_index("strategy").gain_fraction
        assert (
            table["joint"] > table["principal A"] > table["random A, rank 2r"] > table["random A"] > table["random B"]
        )
        rank = overtaking_rank(problem)
        assert rank is not None
        before = compare_strategies(problem, [rank - 1, rank]).pivot(
            index="rank", columns="strategy", values="gain_fraction"
        )
        ahead = before["random A, rank 2r"] >= before["joint"] * (1 - 1e-12)
        assert ahead.tolist() == [False, True]

    def test_an_update_of_low_rank_is_overtaken_only_at_the_covariances_rank(self) -> None:
        assert overtaking_rank(synthetic_problem(power_law(32, 1.0), 32, delta_rank=2)) == 16

    def test_the_published_gains_of_a_wide_power_law(self) -> None:
        problem = synthetic_problem(power_law(512, 1.0), 128)
        gains = compare_strategies(problem, [8]).set_index("strategy").gain_fraction
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
