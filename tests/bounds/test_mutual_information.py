"""Estimators on samplers whose mutual information is known, and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

from asym_analysis.bounds.mutual_information import (
    estimate_mutual_information,
    gaussian_information,
    ksg_information,
    plug_in_information,
)


def gaussian_pairs(n: int, dimension: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each coordinate pair correlated by rho: I = -dimension/2 ln(1 - rho^2)."""
    generator = np.random.default_rng(seed)
    x, noise = generator.standard_normal((2, n, dimension))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(("dimension", "rho"), [(1, 0.0), (1, 0.8), (3, 0.3), (8, 0.0), (8, 0.8)])
def test_gaussian_estimate_is_unbiased(dimension: int, rho: float) -> None:
    truth = -0.5 * dimension * math.log1p(-(rho**2))
    found = [gaussian_information(*gaussian_pairs(60, dimension, rho, seed)).nats for seed in range(30)]
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(truth, abs=4 * error)


def test_gaussian_estimate_sees_invertible_maps_not_at_all() -> None:
    x, y = gaussian_pairs(100, 4, 0.6, 0)
    generator = np.random.default_rng(1)
    mixed = gaussian_information(x @ generator.standard_normal((4, 4)) + 3, y @ generator.standard_normal((4, 4)))
    assert mixed.nats == pytest.approx(gaussian_information(x, y).nats, abs=1e-9)


def test_uncorrected_bias_of_the_theory_notes() -> None:
    """T14: p = q = 5, n = 200, independent: the plain estimate averages .0649, about p q/(2n) = .0625."""
    from asym_analysis.bounds.mutual_information import _gaussian_bias

    assert _gaussian_bias(200, 5, 5) == pytest.approx(0.0649, abs=1.5e-3)


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, -0.02, 0.02), (0.5, 0.10, 0.19), (0.9, 0.76, 0.90)])
def test_ksg_in_one_dimension(rho: float, low: float, high: float) -> None:
    """T14: k = 3, n = 2000; true values 0, .144, .830."""
    found = [ksg_information(*gaussian_pairs(2000, 1, rho, seed)) for seed in range(3)]
    assert low < np.mean([one.nats for one in found]) < high


@pytest.mark.parametrize("dimension", [2, 4])
def test_ksg_in_more_dimensions(dimension: int) -> None:
    truth = -0.5 * dimension * math.log1p(-0.25)
    found = ksg_information(*gaussian_pairs(2000, dimension, 0.5, 3))
    assert found.nats == pytest.approx(truth, abs=0.12)


def test_ksg_against_scikit_learn() -> None:
    """The same estimator; scikit-learn adds noise of 1e-10 and scales by the standard deviation."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(800)
    y = np.sin(2 * x) + 0.3 * generator.standard_normal(800)
    theirs = mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    assert estimate_mutual_information(x, y).nats == pytest.approx(theirs, abs=2e-3)


def test_ksg_finds_what_correlation_cannot() -> None:
    generator = np.random.default_rng(2)
    angle = generator.uniform(0, 2 * math.pi, 1500)
    x, y = np.cos(angle)[:, None], np.sin(angle)[:, None] + 0.1 * generator.standard_normal((1500, 1))
    assert abs(gaussian_information(x, y).nats) < 0.01
    assert ksg_information(x, y).nats > 1.0


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_plug_in_of_a_noisy_channel(noise: float) -> None:
    generator = np.random.default_rng(4)
    x = generator.integers(0, 2, 20_000)
    y = np.where(generator.random(20_000) < noise, 1 - x, x)
    entropy = 0.0 if noise == 0 else -noise * math.log(noise) - (1 - noise) * math.log1p(-noise)
    found = plug_in_information(x, y)
    assert found.nats == pytest.approx(math.log(2) - entropy, abs=4 * found.standard_error + 2e-4)
    plain = mutual_info_score(x, y)
    assert found.nats == pytest.approx(plain - 1 / 40_000, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "columns", "n", "mean", "root"),
    [(2, 4, 30, 0.0577, 0.312), (2, 4, 300, 0.0052, 0.094), (2, 4, 1500, 0.0010, 0.041), (2, 3, 30, 0.0367, 0.240)],
)
def test_plug_in_floor_of_independent_values(rows: int, columns: int, n: int, mean: float, root: float) -> None:
    """T14: what the plain estimate gives where there is nothing to find."""
    generator = np.random.default_rng(6)
    plain, corrected = [], []
    for _ in range(300):
        x, y = generator.integers(0, rows, n), generator.integers(0, columns, n)
        plain.append(mutual_info_score(x, y))
        corrected.append(plug_in_information(x, y).nats)
    error = np.std(plain) / math.sqrt(len(plain))
    assert np.mean(plain) == pytest.approx(mean, abs=4 * error + 5e-4)
    assert np.mean(np.sqrt(2 * np.array(plain))) == pytest.approx(root, rel=0.1)
    assert abs(np.mean(corrected)) < 0.3 * mean + 2e-4


@pytest.mark.parametrize("method", ["gaussian", "ksg", "plug-in"])
def test_standard_errors_are_those_of_repetition(method: str) -> None:
    def one(seed: int) -> tuple[float, float]:
        x, y = gaussian_pairs(300, 1, 0.6, seed)
        pair = ((x[:, 0] > 0).astype(int), (y[:, 0] > 0).astype(int)) if method == "plug-in" else (x, y)
        found = estimate_mutual_information(*pair, method)
        return found.nats, found.standard_error

    found = np.array([one(seed) for seed in range(30)])
    assert 0.6 < np.sqrt(np.mean(found[:, 1] ** 2)) / found[:, 0].std() < 1.7


def test_estimates_say_that_they_are_diagnostics() -> None:
    found = estimate_mutual_information(*gaussian_pairs(50, 1, 0.5, 0), "gaussian")
    assert found.kind == "diagnostic"
    assert "diagnostic" in str(found)


@pytest.mark.parametrize(
    ("x", "y", "method", "message"),
    [
        (np.zeros(3), np.zeros(4), "ksg", "no pairs"),
        (np.zeros(9), np.zeros(9), "mine", "no estimator"),
        (np.zeros((5, 3)), np.zeros((5, 3)), "gaussian", "too few"),
        (np.zeros(3), np.zeros(3), "ksg", "too few"),
    ],
)
def test_wrong_arguments(x: np.ndarray, y: np.ndarray, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_mutual_information(x, y, method)
