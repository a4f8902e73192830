"""The law of the overlap of random subspaces: published moments, simulation, and uniform p-values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from asym_analysis.chance import BetaNull, overlap_null


@pytest.mark.parametrize(
    ("rank", "size", "mean", "std"),
    [
        (8, 1024, 0.0078125, 0.001370),
        (16, 1024, 0.015625, 0.00136),
        (16, 4096, 0.00390625, 0.000344),
        (8, 768, 0.0104167, 0.0018),
    ],
)
def test_published_moments(rank: int, size: int, mean: float, std: float) -> None:
    null = overlap_null(rank, rank, size)
    assert null.mean == pytest.approx(mean, rel=1e-5)
    assert null.std == pytest.approx(std, rel=1.5e-2)


def draws(p: int, q: int, d: int, count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    first = np.linalg.qr(generator.normal(size=(count, d, p)))[0]
    second = np.linalg.qr(generator.normal(size=(count, d, q)))[0]
    return np.linalg.norm(first.mT @ second, axis=(1, 2)) ** 2 / min(p, q)


@pytest.mark.parametrize(("p", "q", "d"), [(4, 8, 64), (3, 3, 10), (6, 7, 10), (1, 5, 20), (2, 2, 2), (9, 10, 10)])
def test_moments_match_simulation(p: int, q: int, d: int) -> None:
    null, sample = overlap_null(p, q, d), draws(p, q, d, 1500, seed=p + q + d)
    assert sample.mean() == pytest.approx(null.mean, abs=4 * null.std / 1500**0.5 + 1e-12)
    assert sample.std() == pytest.approx(null.std, rel=0.1, abs=1e-9)
    assert sample.min() >= null.low - 1e-12


@pytest.mark.parametrize(("p", "q", "d"), [(8, 8, 192), (4, 16, 96), (6, 7, 10), (1, 1, 30)])
def test_p_values_of_random_pairs_are_uniform(p: int, q: int, d: int) -> None:
    """Kolmogorov-Smirnov at level 0.001 on 2,000 random pairs for each of four shapes."""
    p_values = overlap_null(p, q, d).p_value(draws(p, q, d, 2000, seed=7))
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_99_percent_point_agrees_with_simulation() -> None:
    # docs/theory.md, section 4.2: simulated .4729 against .4767, and .0900 against .0907, of the sum T
    assert overlap_null(4, 4, 64).critical_value(0.01) * 4 == pytest.approx(0.4767, abs=5e-5)
    assert overlap_null(8, 8, 1024).critical_value(0.01) * 8 == pytest.approx(0.0907, abs=5e-5)


def test_critical_value_inverts_the_p_value() -> None:
    null = overlap_null(6, 7, 10)
    assert null.p_value(np.array([null.critical_value(0.03)]))[0] == pytest.approx(0.03)


def test_a_single_point_has_p_value_one() -> None:
    null = overlap_null(3, 5, 5)
    assert (null.mean, null.std) == (1.0, 0.0)
    assert null.p_value(np.array([1.0, np.nan]))[0] == 1.0


def test_impossible_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="do not exist"):
        overlap_null(3, 6, 5)


def test_beta_null_matches_scipy() -> None:
    null = BetaNull(mean=0.3, std=0.1, low=0.1, high=0.9)
    alpha, beta = null.shape
    law = stats.beta(alpha, beta, loc=0.1, scale=0.8)
    assert (law.mean(), law.std()) == pytest.approx((0.3, 0.1))
    np.testing.assert_allclose(null.p_value(np.linspace(0.1, 0.9, 9)), law.sf(np.linspace(0.1, 0.9, 9)), atol=1e-12)


@pytest.mark.parametrize(("p", "q", "d"), [(8, 8, 1024), (1, 1, 400), (4, 16, 4096)])
def test_many_p_values_at_once_are_those_of_each(p: int, q: int, d: int) -> None:
    null = overlap_null(p, q, d)
    values = np.concatenate([np.linspace(0, 1, 600), null.mean + null.std * np.linspace(-3, 30, 600), [np.nan]])
    values = np.clip(values, 0, 1)
    together = null.p_value(values)
    alone = np.array([null.p_value(values[i : i + 1])[0] for i in range(len(values))])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-200)
