"""Gaps from information: the paper's numbers, and exact Gaussian mutual information by another road."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.bounds import information


@pytest.mark.parametrize(
    ("gap", "n", "bits"),
    [(1.0, 2490, 7184), (0.25, 2490, 449), (0.1, 3668, 106), (0.25, 67349, 12146), (0.25, 392_702, 70_817)],
)
def test_bit_budget(gap: float, n: int, bits: float) -> None:
    assert information.bit_budget(gap, n) == pytest.approx(bits, rel=2e-3)
    nats = information.bit_budget(gap, n) * math.log(2)
    assert information.mutual_information_gap(nats, n) == pytest.approx(gap)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_individual_samples_never_lose(each: list[float]) -> None:
    total = information.mutual_information_gap(sum(each), len(each))
    assert information.individual_sample_gap(np.array(each)) <= total + 1e-12


def test_sub_gaussian_scales_the_gap() -> None:
    for bound in (information.mutual_information_gap, information.occam_gap, information.pac_bayes_gap):
        assert bound(7.0, 90, 2.0) == pytest.approx(4 * bound(7.0, 90, 0.5))


def test_square_moment_behind_the_pac_bayes_gap() -> None:
    """E exp((n-1) gap^2/(2 sigma^2)) <= sqrt(n) holds with equality for Gaussian losses: by quadrature."""
    n, sigma = 40, 0.7
    x = np.linspace(-10, 10, 20_001) * sigma
    log_product = (-n + (n - 1)) * x**2 / (2 * sigma**2) + 0.5 * math.log(n / (2 * math.pi * sigma**2))
    assert np.trapezoid(np.exp(log_product), x) == pytest.approx(math.sqrt(n), rel=1e-9)


def test_noisy_regression_against_the_joint_covariance() -> None:
    """I(W; Y | Z) from determinants of the joint Gaussian law of W and Y."""
    generator = np.random.default_rng(0)
    n, p, outputs, psi, tau = 12, 3, 2, 0.7, 0.3
    Z = generator.standard_normal((n, p))
    solve = np.linalg.pinv(Z)
    y = psi * np.eye(n)
    w = solve @ y @ solve.T + tau * np.eye(p)
    joint = np.block([[w, solve @ y], [y @ solve.T, y]])
    expected = 0.5 * outputs * (np.linalg.slogdet(w)[1] + np.linalg.slogdet(y)[1] - np.linalg.slogdet(joint)[1])
    assert information.noisy_regression_information(Z, outputs, psi, tau) == pytest.approx(expected, rel=1e-10)


def test_noisy_regression_has_the_dimensions_of_the_parameter_count() -> None:
    """With many samples, B-only holds as d_out r and A-only as r d_in (theory notes, section 6.8)."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((20_000, 30))
    b_only = information.noisy_regression_information(x[:, :4], 50, 1.0, 1e-3)
    a_only = information.noisy_regression_information(x, 4, 1.0, 1e-3)
    assert b_only / a_only == pytest.approx(50 * 4 / (4 * 30), rel=0.02)


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="impossible"):
        information.mutual_information_gap(-1.0, 10)
    with pytest.raises(ValueError, match="two samples"):
        information.pac_bayes_gap(1.0, 1)
    with pytest.raises(ValueError, match="linearly dependent"):
        information.noisy_regression_information(np.ones((5, 2)), 1, 1.0, 1.0)
