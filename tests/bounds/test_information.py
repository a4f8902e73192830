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


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="impossible"):
        information.mutual_information_gap(-1.0, 10)
    with pytest.raises(ValueError, match="two samples"):
        information.pac_bayes_gap(1.0, 1)
