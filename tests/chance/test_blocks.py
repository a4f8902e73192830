"""Weighted samples of random rotations against exact moments, exact tails and integrals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, special, stats

from asym_analysis.chance import TabulatedNull, overlap_null
from asym_analysis.chance.angles import random_cosines
from asym_analysis.chance.blocks import random_bases, random_blocks
from asym_analysis.chance.haar import rotated_trace_moments
from asym_analysis.chance.spectral import cosine_reference, overlap_reference, trace_reference

SHAPES = [(1, 1, 3), (2, 2, 3), (5, 4, 6), (3, 5, 10), (4, 4, 4), (8, 8, 24), (6, 2, 300)]


@pytest.mark.parametrize(("p", "q", "d"), SHAPES)
def test_weights_make_up_for_the_tilt(p: int, q: int, d: int) -> None:
    """Mean and variance of weighted traces of blocks are those of a uniformly random rotation."""
    blocks, weights = random_blocks(p, q, d)
    assert blocks.shape == (len(weights), p, q)
    assert weights.mean() == pytest.approx(1, abs=0.02)
    c, e = 1 / np.arange(1.0, p + 1), np.arange(1.0, q + 1) ** -2
    values = np.einsum("nij,i,j->n", blocks**2, c, e)
    mean, variance = rotated_trace_moments(c.sum(), (c**2).sum(), e.sum(), (e**2).sum(), d)
    error = (weights * values).std() / len(weights) ** 0.5
    assert (weights * values).mean() == pytest.approx(mean, abs=4 * error + 1e-12)
    squares = weights * (values - mean) ** 2
    assert squares.mean() == pytest.approx(variance, abs=4 * squares.std() / len(weights) ** 0.5 + 1e-12)


def test_bases_have_the_products_of_the_blocks() -> None:
    first, second, weights = random_bases(5, 3, 12)
    for basis in (first, second):
        products = basis @ basis.transpose(0, 2, 1)
        np.testing.assert_allclose(products, np.broadcast_to(np.eye(basis.shape[1]), products.shape), atol=1e-12)
    overlap = np.square(first @ second.transpose(0, 2, 1)).sum((1, 2)) / 3
    null = overlap_null(5, 3, 12)
    assert (weights * overlap).mean() == pytest.approx(null.mean, abs=0.01)
    assert (weights * (overlap - null.mean) ** 2).mean() ** 0.5 == pytest.approx(null.std, rel=0.05)


@pytest.mark.parametrize(("p", "q", "d"), [(3, 1, 40), (1, 1, 3), (6, 6, 7)])
def test_a_single_free_angle_is_exact(p: int, q: int, d: int) -> None:
    cosines, weights, exact = random_cosines(p, q, d)
    assert exact
    null = TabulatedNull.of(cosines.mean(1), weights, exact=True)
    exact_null = overlap_null(p, q, d)
    values = exact_null.critical_value(np.array([0.5, 1e-2, 1e-4, 1e-6]))
    # The overlap is the mean square of the cosines, of which all but one are 1.
    least = min(p, q)
    mean_cosine = (least - 1 + np.sqrt(np.maximum(values * least - (least - 1), 0))) / least
    np.testing.assert_allclose(null.p_value(mean_cosine), [0.5, 1e-2, 1e-4, 1e-6], rtol=0.02)


def test_the_tail_of_two_angles_against_an_integral() -> None:
    """Planes of R^9: the density of x, y = cos^2 is (1-x)^2 (1-y)^2 |x-y| / sqrt(xy) up to a constant."""
    density = lambda y, x: (1 - x) ** 2 * (1 - y) ** 2 * abs(x - y) / np.sqrt(x * y)  # noqa: E731
    whole = 2 * integrate.dblquad(density, 0, 1, 0, lambda x: x)[0]
    cosines, weights, exact = random_cosines(2, 2, 9)
    assert not exact
    null = TabulatedNull.of(cosines[:, 1], weights)
    for least in (0.6, 0.8, 0.9):  # both cosines beyond it
        tail = 2 * integrate.dblquad(density, least**2, 1, least**2, lambda x: x)[0] / whole
        found = null.p_value(np.array([least]))[0]
        assert tail * 0.95 < found < tail * 1.25, (least, tail, found)
        assert null.least_p < 1e-5


@pytest.mark.parametrize(("d", "rank"), [(3, 1), (40, 1), (4096, 1)])
def test_traces_of_rank_one_have_their_exact_tail(d: int, rank: int) -> None:
    reference = trace_reference(np.ones(rank), np.ones(rank), d)
    levels = np.array([0.3, 1e-2, 1e-3, 1e-4, 1e-5])
    values = stats.beta(0.5, (d - 1) / 2).isf(levels)
    found = reference.null.p_value(values) / levels
    assert (found > 0.93).all()
    assert (found < 1.2).all()


def test_the_overlap_of_many_dimensions_has_its_sampled_tail() -> None:
    """The Beta distribution that is used there against the weighted samples: within a tenth at 1e-4."""
    blocks, weights = random_blocks(4, 4, 512)
    sampled = TabulatedNull.of(np.square(blocks).sum((1, 2)) / 4, weights)
    beta = overlap_reference(np.ones(4), np.ones(4), 512).null
    values = overlap_null(4, 4, 512).critical_value(np.array([0.1, 1e-2, 1e-3, 1e-4, 1e-5]))
    np.testing.assert_allclose(sampled.p_value(values) / beta.p_value(values), 1, atol=0.12)


@pytest.mark.parametrize(("d_in", "d_out"), [(3, 3), (3, 200), (64, 96)])
def test_the_cosine_of_rank_one_updates_has_its_exact_tail(d_in: int, d_out: int) -> None:
    """A product of one coordinate of each of two random unit vectors, integrated."""

    def tail(value: float) -> float:
        inner = lambda u: stats.beta((d_out - 1) / 2, (d_out - 1) / 2).sf((1 + value / u) / 2)  # noqa: E731
        density = lambda u: inner(u) * 2 * (1 - u * u) ** ((d_in - 3) / 2)  # noqa: E731
        constant = special.beta(0.5, (d_in - 1) / 2)
        return integrate.quad(density, value, 1, limit=200)[0] / constant

    null = cosine_reference(np.ones(1), np.ones(1), d_in, d_out).null
    std = (d_in * d_out) ** -0.5
    for steps in (0.5, 1.2, 2.0, 2.6) if d_in == 3 == d_out else (0.5, 2.0, 3.5, 5.0):
        exact = tail(steps * std)
        if exact > 1e-6:
            found = null.p_value(np.array([steps * std]))[0]
            assert 0.93 * exact < found < 1.25 * exact, (steps, exact, found)


def test_few_draws_are_floored_at_what_they_know() -> None:
    null = TabulatedNull.of(np.random.default_rng(0).normal(size=2000))
    assert 0.005 < null.least_p < 0.02  # 25 draws know their probability within 20 %
    assert null.p_value(np.array([100.0]))[0] == null.least_p
    assert null.p_value(np.array([-100.0]))[0] == 1


def test_p_values_err_on_the_side_of_chance() -> None:
    """Of 200 tables from 4,000 draws each few give less than the true probability at any of three levels."""
    generator = np.random.default_rng(1)
    levels = np.array([0.2, 0.05, 0.01])
    values = stats.norm.isf(levels)
    found = np.array([TabulatedNull.of(generator.normal(size=4000)).p_value(values) for _ in range(200)])
    assert ((found < levels).mean(0) < 0.25).all()
    assert (np.median(found, axis=0) < 1.3 * levels).all()
