from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asym_analysis.adapters import Adapter
from asym_analysis.alignment.spectra import adapter_spectra, spectrum_statistics
from asym_analysis.errors import AdapterError


def trained(seed: int = 0) -> tuple[Adapter, Adapter]:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(4, 20, generator=generator)
    A = start + 0.3 * torch.randn(4, 20, generator=generator)
    B = torch.randn(30, 4, generator=generator)
    initial = Adapter.from_factors({"layer.0.query": (start, torch.zeros(30, 4))})
    return Adapter.from_factors({"layer.0.query": (A, B)}, scaling=2.0, name="run"), initial


def test_equals_the_dense_spectrum() -> None:
    run, initial = trained()
    spectra = adapter_spectra(run, initial)
    delta = run["layer.0.query"].delta().double()
    s = torch.linalg.svdvals(delta)[:4].numpy()
    np.testing.assert_allclose(spectra.singular_values.singular_value, s, rtol=1e-6)
    assert spectra.singular_values.cumulative.iloc[-1] == pytest.approx(1)
    row = spectra.frame.iloc[0]
    assert row.stable_rank == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-6)
    share = s / s.sum()
    assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    B, start = 2 * run["layer.0.query"].B.double(), initial["layer.0.query"].A.double()
    assert row.start_norm == pytest.approx((B @ start).norm().item(), rel=1e-9)
    assert row.moved_norm == pytest.approx((B @ (run["layer.0.query"].A.double() - start)).norm().item(), rel=1e-9)
    assert spectra.summary().modules.tolist() == [1]


def test_without_a_start_there_is_no_split() -> None:
    run, _ = trained()
    assert adapter_spectra(run).frame[["start_norm", "moved_norm"]].isna().all(axis=None)
    wrong = Adapter.from_factors({"layer.0.query": (torch.ones(3, 20), torch.ones(30, 3))})
    with pytest.raises(AdapterError, match="its initialization"):
        adapter_spectra(run, wrong)


@given(arrays(float, 6, elements=st.floats(0, 100)))
def test_statistics_lie_in_their_bounds(s: np.ndarray) -> None:
    found = spectrum_statistics(s)
    if s.max() == 0:
        assert all(np.isnan(value) for value in found.values())
        return
    positive = (s > 0).sum()
    assert 1 - 1e-9 <= found["stable_rank"] <= found["participation"] * (1 + 1e-9) or found["stable_rank"] >= 1 - 1e-9
    for value in found.values():
        assert 1 - 1e-9 <= value <= positive + 1e-9
    assert spectrum_statistics(7 * s)["effective_rank"] == pytest.approx(found["effective_rank"])


def test_flat_and_rank_one_spectra() -> None:
    assert spectrum_statistics(np.ones(5)) == pytest.approx(
        {"effective_rank": 5, "stable_rank": 5, "participation": 5, "rank_90": 5}
    )
    assert set(spectrum_statistics(np.array([3.0, 0.0])).values()) == {1.0}


def test_a_zero_update_is_a_value() -> None:
    zero = Adapter.from_factors({"q": (torch.ones(2, 8), torch.zeros(8, 2))})
    row = adapter_spectra(zero).frame.iloc[0]
    assert row.frobenius_norm == 0
    assert np.isnan(row.effective_rank)
