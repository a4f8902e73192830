"""Beta and product distributions against simulation; the room needs nothing but numpy and scipy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from asym_analysis.chance import BetaNull, probability_of_more


def test_probability_of_more_against_draws() -> None:
    one, two = BetaNull(0.3, 0.1), BetaNull(0.25, 0.15)
    rng = np.random.default_rng(0)
    x, y = (rng.beta(*null.shape, size=400_000) for null in (one, two))
    assert probability_of_more(one, two) == pytest.approx((x > y).mean(), abs=3e-3)
    assert probability_of_more(two, one) == pytest.approx(1 - (x > y).mean(), abs=3e-3)


def test_certain_values() -> None:
    point = BetaNull(0.3, 0.0)
    assert probability_of_more(point, BetaNull(0.3, 0.0)) == 0.5
    assert probability_of_more(point, BetaNull(0.2, 1e-12)) == 1.0
    spread = BetaNull(0.25, 0.15)
    assert probability_of_more(point, spread) == pytest.approx(stats.beta(*spread.shape).cdf(0.3), abs=1e-12)
    assert probability_of_more(spread, point) == pytest.approx(stats.beta(*spread.shape).sf(0.3), abs=1e-3)


def test_the_room_loads_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, asym_analysis.chance as c; [getattr(c, n) for n in c.__all__]; "
        "print([m for m in ('torch', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
