"""Spectra, norms and inner products from the factors, against the dense product."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.chance import overlap_null
from asym_analysis.subspaces.measures import MEASURES
from asym_analysis.subspaces.updates import frobenius_norm, inner_product, singular_values, thin_svd


def factors(seed: int, *, rank: int, d_in: int, d_out: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(batch, rank, d_in, generator=generator, dtype=torch.float64)
    return A, torch.randn(batch, d_out, rank, generator=generator, dtype=torch.float64)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 6), d_in=st.integers(1, 12), d_out=st.integers(1, 12))
def test_all_match_the_dense_product(seed: int, rank: int, d_in: int, d_out: int) -> None:
    A, B = factors(seed, rank=rank, d_in=d_in, d_out=d_out)
    other_A, other_B = factors(seed + 1, rank=2, d_in=d_in, d_out=d_out)
    dense, other = B @ A, other_B @ other_A
    k = min(rank, d_in, d_out)
    torch.testing.assert_close(singular_values(A, B), torch.linalg.svdvals(dense)[:, :k], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(frobenius_norm(A, B), torch.linalg.matrix_norm(dense), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(
        inner_product(A, B, other_A, other_B), (dense * other).sum((1, 2)), atol=1e-10, rtol=1e-10
    )
    U, S, Vh = thin_svd(A, B)
    torch.testing.assert_close((U * S[:, None]) @ Vh, dense, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(U.mT @ U, torch.eye(k, dtype=torch.float64).expand(3, k, k), atol=1e-12, rtol=0)
    torch.testing.assert_close(Vh @ Vh.mT, torch.eye(k, dtype=torch.float64).expand(3, k, k), atol=1e-12, rtol=0)


def test_an_ill_conditioned_gauge_changes_nothing() -> None:
    A, B = factors(0, rank=3, d_in=30, d_out=20)
    mix = torch.diag(torch.tensor([1e4, 1.0, 1e-4], dtype=torch.float64))
    expected = singular_values(A, B)
    torch.testing.assert_close(singular_values(mix @ A, B @ mix.inverse()), expected, rtol=1e-9, atol=0)


def test_the_gauge_moves_kernel_alignment_but_not_the_overlap() -> None:
    A, _ = factors(1, rank=8, d_in=512, d_out=4, batch=2)
    mix = torch.diag(torch.linspace(1, 6, 8, dtype=torch.float64))
    for name, moves in (("overlap", False), ("linear_cka", True)):
        measure = MEASURES[name]
        assert (abs(measure(mix @ A[0], A[1]) - measure(A[0], A[1])) > 1e-4) is moves


def test_the_overlap_of_random_factors_is_at_its_null() -> None:
    A, _ = factors(2, rank=8, d_in=1024, d_out=1, batch=60)
    frames = MEASURES["overlap"].prepare(A)
    values = MEASURES["overlap"].compare(frames, frames)
    upper = values[torch.triu(torch.ones(60, 60, dtype=torch.bool), 1)]
    null = overlap_null(8, 8, 1024)
    assert upper.mean().item() == pytest.approx(0.0078125, abs=5 * null.std / len(upper) ** 0.5)
    assert upper.std().item() == pytest.approx(0.001370, rel=0.08)
    torch.testing.assert_close(values.diagonal(), torch.ones(60, dtype=torch.float64))
