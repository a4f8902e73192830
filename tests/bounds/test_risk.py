"""Certified risks against published values, mpmath, and each other."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.bounds import risk

REFERENCE = {"empirical": 0.05, "nats": 1000.0, "n_samples": 50_000, "confidence": 0.95}


@pytest.mark.parametrize(
    ("form", "expected"),
    [("Catoni", 0.106637), ("kl-inverse", 0.106058), ("convexity", 0.119431), ("McAllester", 0.150689)],
)
def test_published_values(form: str, expected: float) -> None:
    assert risk.RISK_FORMS[form](*REFERENCE.values()) == pytest.approx(expected, abs=6e-7)


def test_catoni_pays_for_its_parameter() -> None:
    """The bound of a fixed gamma, minimized over gamma as if that were free, is what one public code reports."""
    gamma = np.geomspace(1e3, 1e6, 20_001)
    charge = REFERENCE["nats"] - math.log(0.05)
    free = ((1 - np.exp(-(gamma * 0.05 + charge) / 50_000)) / (1 - np.exp(-gamma / 50_000))).min()
    assert free == pytest.approx(0.10585, abs=5e-6)
    assert risk.catoni_risk(*REFERENCE.values()) > free + 5e-4


@given(q=st.floats(0, 1), log_nats=st.floats(-14, 3))
def test_kl_inverse_against_mpmath(q: float, log_nats: float) -> None:
    nats = 10.0**log_nats
    found = risk.kl_inverse(q, nats)
    assert q <= found <= 1
    if found in (q, 1.0) or q == 0.0:
        return
    with mpmath.workdps(60):
        q_, p = mpmath.mpf(q), mpmath.mpf(found)
        value = q_ * mpmath.log(q_ / p) + (1 - q_) * mpmath.log((1 - q_) / (1 - p))
        slope = (p - q_) / (p * (1 - p))
        # One Newton step of the exact equation: how far the root lies from what was found.
        # The two terms of kl cancel to first order, which costs about 1e-16 of kl and so 1e-16/slope of p.
        assert abs((value - nats) / slope) < 1e-15 / slope + 1e-13 * found


@given(q=st.floats(0, 1), a=st.floats(0, 5), b=st.floats(0, 5))
def test_kl_inverse_grows_with_both(q: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert risk.kl_inverse(q, low) <= risk.kl_inverse(q, high)
    assert risk.kl_inverse(q * 0.9, high) <= risk.kl_inverse(q, high) + 1e-15
    assert risk.kl_inverse(q, 0.0) == q
    assert risk.kl_inverse(0.0, high) == pytest.approx(1 - math.exp(-high), rel=1e-12, abs=1e-15)


@given(q=st.floats(0, 1), nats=st.floats(0, 1e5), n=st.integers(10, 10**6))
def test_order_of_the_forms(q: float, nats: float, n: int) -> None:
    kl = risk.kl_inverse_risk(q, nats, n)
    assert risk.catoni_risk(q, nats, n) <= 1
    assert kl <= risk.convexity_risk(q, nats, n) + 1e-12
    # Pinsker: the square-root form with Maurer's constant is never below the kl form.
    assert kl <= q + math.sqrt((nats + math.log(2 * math.sqrt(n) / 0.05)) / (2 * n)) + 1e-12
    assert risk.chernoff_risk(q, nats, n) <= kl


def test_coded_subspace_on_glue() -> None:
    """1,000 dimensions, 3.0 bits, 11 levels, codebook, counts, length: 3,316 bits (docs/theory.md, section 8, T12)."""
    length = 3000 + 16 * 11 + 11 * math.ceil(math.log2(1000))
    bits = round(length + 2 * math.log2(length) + 7)
    assert bits == 3316
    nats = bits * math.log(2)
    assert risk.kl_inverse_risk(0.05, nats, 2490) == pytest.approx(0.688, abs=5e-4)
    assert risk.kl_inverse_risk(0.05, nats, 392_702) == pytest.approx(0.077, abs=5e-4)


@pytest.mark.parametrize("mean", [0.02, 0.15, 0.5])
def test_sampled_mean_bound_covers(mean: float) -> None:
    """Of 400 bounds at confidence .8 on Bernoulli samples, the share that fails stays below .2 (plus 3 deviations)."""
    generator = np.random.default_rng(3)
    failures = sum(
        risk.sampled_mean_upper_bound((generator.random(200) < mean).astype(float), 0.8) < mean for _ in range(400)
    )
    assert failures / 400 <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 400)


def test_sampled_mean_bound_gains_where_values_vary_little() -> None:
    values = np.random.default_rng(0).normal(0.15, 0.002, 300)
    betting = risk.sampled_mean_upper_bound(values, 0.99)
    hoeffding = risk.kl_inverse(float(values.mean()), math.log(100) / 300)
    assert betting - values.mean() < 0.5 * (hoeffding - values.mean())


def test_unequal_means_are_covered() -> None:
    """Half the values have mean 0 and half mean .4: the bound is on their average."""
    generator = np.random.default_rng(5)
    failures = 0
    for _ in range(300):
        values = np.concatenate([np.zeros(100), (generator.random(100) < 0.4).astype(float)])
        failures += risk.sampled_mean_upper_bound(values, 0.8) < 0.2
    assert failures / 300 <= 0.2


@pytest.mark.parametrize(
    "arguments",
    [(1.2, 1.0, 10, 0.95), (0.1, -1.0, 10, 0.95), (0.1, 1.0, 0, 0.95), (0.1, 1.0, 10, 1.0), (0.1, math.nan, 10, 0.9)],
)
def test_arguments_outside_their_range(arguments: tuple[float, float, int, float]) -> None:
    for form in (*risk.RISK_FORMS.values(), risk.chernoff_risk):
        with pytest.raises(ValueError, match=r"\S+ .*"):
            form(*arguments)
