"""Orthonormal bases and numerical rank, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.subspaces.bases import orthonormal_coordinates, orthonormal_rows, rank_tolerance


def low_rank(rows: int, size: int, rank: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    return (left @ torch.randn(rank, size, generator=generator, dtype=torch.float64)).to(dtype)


@given(rows=st.integers(1, 9), size=st.integers(1, 12), rank=st.integers(0, 6), seed=st.integers(0, 10**6))
def test_basis_spans_the_rows_with_numpys_rank(rows: int, size: int, rank: int, seed: int) -> None:
    matrix = low_rank(rows, size, min(rank, rows, size), seed)
    basis, found = orthonormal_rows(matrix[None])
    assert found.item() == np.linalg.matrix_rank(matrix.numpy(), rtol=rank_tolerance((rows, size), torch.float64))
    projector = basis[0].mT @ basis[0]
    torch.testing.assert_close(matrix @ projector, matrix, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(projector @ projector, projector, atol=1e-12, rtol=0)
    assert torch.linalg.matrix_norm(projector).item() ** 2 == pytest.approx(found.item(), abs=1e-10)


def test_rows_beyond_the_rank_are_zero() -> None:
    basis, rank = orthonormal_rows(torch.stack([low_rank(5, 20, 2, 0), torch.zeros(5, 20, dtype=torch.float64)]))
    assert rank.tolist() == [2, 0]
    assert not basis[0, 2:].any()
    assert not basis[1].any()


@pytest.mark.parametrize("ratio", [1e-12, 1e-8, 1e-3, 1.0])
def test_rank_is_decided_by_the_stated_tolerance(ratio: float) -> None:
    # Nearly dependent rows with a well-behaved diagonal of R, which a test of the diagonal alone would pass.
    generator = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(30, 2, generator=generator, dtype=torch.float64)).Q.mT
    matrix = torch.stack([q[0], q[0] + ratio * q[1]])
    for tolerance in (1e-10, 1e-5):
        singular = torch.linalg.svdvals(matrix)
        expected = int((singular > tolerance * singular[0]).sum())
        assert orthonormal_rows(matrix[None], tolerance)[1].item() == expected


def test_scale_does_not_change_the_rank() -> None:
    matrix = low_rank(4, 50, 4, 3, torch.float32)
    for scale in (1e-30, 1.0, 1e30):
        assert orthonormal_rows((scale * matrix)[None])[1].item() == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("condition", [1.0, 2.0, 3.9, 4.1, 100.0])
def test_the_basis_of_independent_rows_is_their_polar_factor(condition: float, dtype: torch.dtype) -> None:
    """On both sides of the condition number from which QR takes the place of the Gram matrix, and in one batch."""
    generator = torch.Generator().manual_seed(7)
    left, right = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (8, 300))
    singular = torch.logspace(0, float(np.log10(condition)), 8, dtype=torch.float64)
    matrix = torch.linalg.qr(left).Q @ torch.diag(singular) @ torch.linalg.qr(right).Q[:8]
    rows = torch.stack([matrix, matrix.flip(0) * singular[:, None], torch.zeros_like(matrix)]).to(dtype)
    basis, rank, coordinates = orthonormal_coordinates(rows)
    assert rank.tolist() == [8, 8, 0]
    error = 2e-6 if dtype == torch.float32 else 1e-13
    for at in range(2):
        u, _, vh = np.linalg.svd(rows[at].double().numpy(), full_matrices=False)
        np.testing.assert_allclose(basis[at].numpy(), u @ vh, atol=error * condition)
        np.testing.assert_allclose((basis[at] @ basis[at].mT).numpy(), np.eye(8), atol=error)
        np.testing.assert_allclose((coordinates[at] @ basis[at]).numpy(), rows[at].numpy(), atol=5 * error * condition)
    assert not basis[2].any()
