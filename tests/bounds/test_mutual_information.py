"""Estimators on samplers whose mutual information is known, and against scikit-learn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

from asym_analysis.bounds.estimators.discrete import plug_in_estimate
from asym_analysis.bounds.estimators.estimate import normal_scores
from asym_analysis.bounds.estimators.gaussian import gaussian_estimate
from asym_analysis.bounds.estimators.nearest_neighbours import ksg_estimate
from asym_analysis.bounds.mutual_information import MutualInformation, estimate_mutual_information


def gaussian_pairs(n: int, dimension: int, rho: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each coordinate pair correlated by rho: I = -dimension/2 ln(1 - rho^2)."""
    generator = np.random.default_rng(seed)
    x, noise = generator.standard_normal((2, n, dimension))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize(("dimension", "rho"), [(1, 0.0), (1, 0.8), (3, 0.3), (8, 0.0), (8, 0.8)])
def test_gaussian_estimate_is_unbiased(dimension: int, rho: float) -> None:
    truth = -0.5 * dimension * math.log1p(-(rho**2))
    found = [gaussian_estimate(*gaussian_pairs(60, dimension, rho, seed)).nats for seed in range(30)]
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(truth, abs=4 * error)


def test_gaussian_estimate_sees_invertible_maps_not_at_all() -> None:
    x, y = gaussian_pairs(100, 4, 0.6, 0)
    generator = np.random.default_rng(1)
    mixed = gaussian_estimate(x @ generator.standard_normal((4, 4)) + 3, y @ generator.standard_normal((4, 4)))
    assert mixed.nats == pytest.approx(gaussian_estimate(x, y).nats, abs=1e-9)


def test_uncorrected_bias_of_the_theory_notes() -> None:
    """T14: p = q = 5, n = 200, independent: the plain estimate averages .0649, about p q/(2n) = .0625."""
    from asym_analysis.bounds.estimators.gaussian import _bias

    assert _bias(200, 5, 5) == pytest.approx(0.0649, abs=1.5e-3)


@pytest.mark.parametrize(("rho", "low", "high"), [(0.0, -0.02, 0.02), (0.5, 0.10, 0.19), (0.9, 0.76, 0.90)])
def test_ksg_in_one_dimension(rho: float, low: float, high: float) -> None:
    """T14: k = 3, n = 2000; true values 0, .144, .830."""
    found = [ksg_estimate(*gaussian_pairs(2000, 1, rho, seed)) for seed in range(3)]
    assert low < np.mean([one.nats for one in found]) < high


@pytest.mark.parametrize("dimension", [2, 4])
def test_ksg_in_more_dimensions(dimension: int) -> None:
    truth = -0.5 * dimension * math.log1p(-0.25)
    found = ksg_estimate(*gaussian_pairs(2000, dimension, 0.5, 3))
    assert found.nats == pytest.approx(truth, abs=0.12)


def test_ksg_against_scikit_learn() -> None:
    """The same estimator on normal scores; scikit-learn adds noise of 1e-10 and scales by the standard deviation."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(800)
    y = np.sin(2 * x) + 0.3 * generator.standard_normal(800)
    theirs = mutual_info_regression(
        normal_scores(x[:, None]), normal_scores(y[:, None])[:, 0], n_neighbors=3, random_state=0
    )[0]
    assert estimate_mutual_information(x, y).nats == pytest.approx(theirs, abs=5e-3)


def test_ksg_finds_what_correlation_cannot() -> None:
    generator = np.random.default_rng(2)
    angle = generator.uniform(0, 2 * math.pi, 1500)
    x, y = np.cos(angle)[:, None], np.sin(angle)[:, None] + 0.1 * generator.standard_normal((1500, 1))
    assert abs(gaussian_estimate(x, y).nats) < 0.01
    assert ksg_estimate(x, y).nats > 1.0


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
def test_plug_in_of_a_noisy_channel(noise: float) -> None:
    generator = np.random.default_rng(4)
    x = generator.integers(0, 2, 20_000)
    y = np.where(generator.random(20_000) < noise, 1 - x, x)
    entropy = 0.0 if noise == 0 else -noise * math.log(noise) - (1 - noise) * math.log1p(-noise)
    found = plug_in_estimate(x, y)
    assert found.nats == pytest.approx(math.log(2) - entropy, abs=4 * found.standard_error + 2e-4)
    plain = mutual_info_score(x, y)
    occupied = 2 if noise == 0 else 4  # bias (K_xy - 3)/(2n)
    assert found.nats == pytest.approx(plain - (occupied - 3) / 40_000, abs=1e-12)


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
        corrected.append(plug_in_estimate(x, y).nats)
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
    assert found.frame["kind"].tolist() == ["diagnostic"]
    assert "diagnostic" in str(found)


@pytest.mark.parametrize(
    ("x", "y", "method", "message"),
    [
        (np.zeros(5), np.zeros(4), "ksg", "one y for each x"),
        (np.zeros(9), np.zeros(9), "mine", "not one of"),
        (np.random.default_rng(0).random((5, 3)), np.random.default_rng(0).random((5, 3)), "gaussian", "too few"),
        (np.arange(4.0), np.arange(4.0), "ksg", "too few"),
        (np.full(9, np.nan), np.zeros(9), "ksg", "NaN or infinity"),
        (np.random.default_rng(0).random(9), np.arange(9), "plug-in", "continuous"),
    ],
)
def test_wrong_arguments(x: np.ndarray, y: np.ndarray, method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_mutual_information(x, y, method)


def test_miller_madow_counts_occupied_cells() -> None:
    """x = y: the plug-in entropy is too small, so that the correction adds 3/(2n) for four values."""
    x = np.array([0, 1, 2, 3] * 12 + [0, 1])
    found = plug_in_estimate(x, x)
    assert found.nats == pytest.approx(mutual_info_score(x, x) + 3 / 100, abs=1e-12)


@pytest.mark.parametrize(("values", "n"), [(100, 500), (50, 500)])
def test_plug_in_cannot_tell_where_cells_outnumber_samples(values: int, n: int) -> None:
    generator = np.random.default_rng(0)
    found = plug_in_estimate(generator.integers(0, values, n), generator.integers(0, values, n))
    assert not found.reliable
    assert math.isinf(found.standard_error)
    assert "cannot tell" in found.note


def test_ksg_of_discrete_and_mixed_columns() -> None:
    generator = np.random.default_rng(0)
    five = generator.integers(0, 5, (600, 1)).astype(float)
    assert estimate_mutual_information(five, five).nats == pytest.approx(math.log(5), abs=0.02)
    poisson = [estimate_mutual_information(*generator.poisson(3, (2, 600))) for _ in range(20)]
    assert abs(np.mean([one.nats for one in poisson])) < 0.05
    mixed = [generator.standard_normal((2, 600)) * generator.integers(0, 2, (2, 600)) for _ in range(20)]
    assert abs(np.mean([ksg_estimate(x[:, None], y[:, None]).nats for x, y in mixed])) < 0.02


def test_ksg_refuses_copied_rows_and_what_is_out_of_reach() -> None:
    generator = np.random.default_rng(0)
    twice = np.repeat(generator.standard_normal((2, 300, 1)), 2, axis=1)
    copied = ksg_estimate(*twice)
    assert not copied.reliable
    assert "copies" in copied.note
    far = ksg_estimate(*gaussian_pairs(600, 10, 0.9, 0))
    assert not far.reliable
    assert "out of reach" in far.note


def test_ksg_sees_no_monotone_map_of_the_columns() -> None:
    x, y = gaussian_pairs(600, 1, 0.8, 0)
    assert ksg_estimate(x**3, np.exp(y)).nats == pytest.approx(ksg_estimate(x, y).nats, abs=1e-12)


def test_exact_dependence_is_infinite_and_constants_tell_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((300, 2))
    for estimate in (gaussian_estimate, ksg_estimate):
        assert math.isinf(estimate(x, x[:, :1]).nats)
        assert estimate(x, np.ones((300, 1))).nats == 0
    dependent = np.hstack([x, x[:, :1] + x[:, 1:]])
    y = x[:, :1] + np.random.default_rng(1).standard_normal((300, 1))
    assert gaussian_estimate(dependent, y).nats == pytest.approx(gaussian_estimate(x, y).nats, abs=1e-9)


def test_gaussian_says_that_cauchy_data_are_not_gaussian() -> None:
    x, y = np.random.default_rng(0).standard_cauchy((2, 600, 1))
    found = gaussian_estimate(x, x + y)
    assert not found.reliable
    assert "not Gaussian" in found.note


@pytest.mark.parametrize(("method", "dimension", "rho"), [("ksg", 1, 0.0), ("ksg", 1, 0.9), ("gaussian", 3, 0.5)])
def test_two_standard_errors_cover(method: str, dimension: int, rho: float) -> None:
    truth = -0.5 * dimension * math.log1p(-(rho**2))
    found = [estimate_mutual_information(*gaussian_pairs(300, dimension, rho, s), method) for s in range(40)]
    assert np.mean([abs(one.nats - truth) <= 2 * one.standard_error for one in found]) >= 0.85


def test_an_estimate_comes_back_from_a_file(tmp_path: Path) -> None:
    found = estimate_mutual_information(*gaussian_pairs(100, 1, 0.5, 0))
    found.to_json(tmp_path / "estimate.json")
    again = MutualInformation.from_json(tmp_path / "estimate.json")
    assert (again.nats, again.note, again.method) == (found.nats, found.note, "ksg")


@pytest.mark.parametrize("method", ["gaussian", "ksg"])
@pytest.mark.parametrize("change", [lambda x: 1e300 * x, lambda x: 1e-300 * x, lambda x: 1e9 + x])
def test_the_unit_and_the_origin_of_a_column_do_not_matter(method: str, change) -> None:
    generator = np.random.default_rng(4)
    x = generator.standard_normal(400)
    y = x + generator.standard_normal(400)
    plain = estimate_mutual_information(x, y, method)
    moved = estimate_mutual_information(change(x), y, method)
    assert moved.nats == pytest.approx(plain.nats, abs=1e-5)
    assert moved.reliable == plain.reliable


def test_whole_numbers_beyond_64_bits() -> None:
    x = np.random.default_rng(0).integers(0, 3, 300)
    exact = estimate_mutual_information(x, x, "plug-in").nats
    assert estimate_mutual_information(x * 1e19, -x * 1e25, "plug-in").nats == pytest.approx(exact)
    assert exact > 1.0


def test_more_columns_than_samples_cannot_tell() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 20, 50))
    found = estimate_mutual_information(x, y, "ksg")
    assert not found.reliable
    assert np.isinf(found.standard_error)
    assert np.isfinite(found.nats)
    assert "too few for" in found.note
