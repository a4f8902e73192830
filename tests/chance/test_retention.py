"""Moments under a random rotation, the effective dimension, and what a random sketch retains."""

from __future__ import annotations

from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.chance import (
    captured_energy_moments,
    effective_dimension_penalty,
    random_retention,
    rank_one_retention,
    rotated_trace_moments,
)


def power_law(d: int, exponent: float) -> np.ndarray:
    return np.arange(1.0, d + 1) ** -exponent


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

    def test_two_rotated_spectra(self) -> None:
        rng = np.random.default_rng(4)
        one, two = np.array([3.0, 1.0, 0.5, 0.0, 0.0]), np.array([2.0, 2.0, 0.1, 0.1, -1.0])
        traces = np.array([one @ haar(rng, 5, 5) ** 2 @ two for _ in range(20_000)])
        mean, variance = rotated_trace_moments(one.sum(), one @ one, two.sum(), two @ two, 5)
        assert abs(traces.mean() - mean) < 4 * traces.std() / 20_000**0.5
        assert traces.var() == pytest.approx(variance, rel=0.05)


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
        assert effective_dimension_penalty(np.ones(256), 8) == pytest.approx(256 / 8 - 1, rel=1e-12)
        flat = random_retention(np.ones(256), 8)
        np.testing.assert_allclose(flat.mean, 8 / 256, rtol=1e-12)
        for rank in (5, 6):
            small = random_retention(np.r_[np.ones(5), np.zeros(25)], rank)
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

    def test_the_infinite_power_law_has_a_closed_form(self) -> None:
        # lambda = [(pi/a) / sin(pi/a) / (r + 1/2)]^a, exponent a = 2: docs/theory.md, section 6.3
        closed = (np.pi / 2 / 8.5) ** 2
        assert closed == pytest.approx(0.03415, abs=5e-6)
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

    @pytest.mark.parametrize(
        "spectrum", [power_law(64, 1.5), np.r_[np.full(4, 10.0), np.ones(60)]], ids=["power law", "spikes"]
    )
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
        assert random_retention(np.ones(5), 2).gain_variance(K) == pytest.approx(variance, rel=1e-12)
