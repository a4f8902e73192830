"""Principal angles against scipy and closed forms, at both ends."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from asym_analysis.subspaces.angles import angles_of_bases, overlap_grid, principal_angles
from asym_analysis.subspaces.bases import orthonormal_rows


@given(p=st.integers(1, 6), q=st.integers(1, 6), d=st.integers(13, 20), seed=st.integers(0, 10**6))
def test_agrees_with_scipy(p: int, q: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(p, d, generator=generator, dtype=torch.float64)
    y = torch.randn(q, d, generator=generator, dtype=torch.float64)
    expected = np.sort(subspace_angles(x.numpy().T, y.numpy().T))
    np.testing.assert_allclose(principal_angles(x, y).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("distance", [1e-3, 1e-7, 1e-10])
def test_small_angles_agree_with_fifty_digits(seed: int, distance: float) -> None:
    """Against mpmath: scipy's own small angles are off by 0.3% at seed 1 and 1e-7."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    y[0] = x[0] + distance * y[0]
    with mpmath.workdps(50):
        first, second = (mpmath.qr(mpmath.matrix(m.tolist()).T, mode="skinny")[0] for m in (x, y))
        residual = first - second * (second.T * first)
        expected = sorted(float(mpmath.asin(s)) for s in mpmath.svd_r(residual, compute_uv=False))
    # A basis is known to about 1e-15 times its condition number, and so is an angle.
    np.testing.assert_allclose(principal_angles(x, y).numpy(), expected, atol=1e-14, rtol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-4, 0.3, np.pi / 4, 1.5, np.pi / 2 - 1e-9, np.pi / 2])
def test_a_known_angle_is_right_at_both_ends(angle: float) -> None:
    rotation = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    x, y = torch.zeros(2, 30, dtype=torch.float64), torch.zeros(2, 30, dtype=torch.float64)
    x[0, 0] = x[1, 1] = 1.0
    y[0, 0], y[0, 2] = np.cos(angle), np.sin(angle)
    y[1, 1], y[1, 3] = np.cos(angle / 2), np.sin(angle / 2)
    found = principal_angles(x @ rotation, y @ rotation)
    np.testing.assert_allclose(
        found.numpy(), [angle / 2, angle], atol=3e-16 + 1e-15, rtol=1e-10 if angle > 1e-10 else 1e-3
    )


def test_padded_bases_of_every_rank_at_once() -> None:
    """One batch of ranks 1 to 4, near copies among them, gives what each pair gives alone."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(4, 25, generator=generator, dtype=torch.float64)
    made = [
        start[: 1 + i % 4] + 10.0 ** -(2 * i) * torch.randn(1 + i % 4, 25, generator=generator, dtype=torch.float64)
        for i in range(8)
    ]
    bases = [orthonormal_rows(m[None]) for m in made]
    padded = torch.zeros(8, 4, 25, dtype=torch.float64)
    for index, (basis, _) in enumerate(bases):
        padded[index, : basis.shape[1]] = basis[0]
    ranks = torch.cat([rank for _, rank in bases])
    angles = angles_of_bases(padded, ranks, padded, ranks)
    for i in range(8):
        for j in range(8):
            k = min(len(made[i]), len(made[j]))
            expected = np.sort(subspace_angles(made[i].numpy().T, made[j].numpy().T))
            np.testing.assert_allclose(angles[i, j, :k].numpy(), expected, atol=1e-13, rtol=1e-5)


def test_the_grid_ends_in_the_overlap_and_holds_leading_directions() -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 30, generator=generator, dtype=torch.float64)
    grid = overlap_grid(x, y)
    assert grid.shape == (4, 6)
    cosines = np.cos(subspace_angles(x.numpy().T, y.numpy().T))
    assert grid[3, 5].item() == pytest.approx((cosines**2).mean(), abs=1e-12)
    u, v = (torch.linalg.svd(m, full_matrices=False).Vh for m in (x, y))
    for i in range(1, 5):
        for j in range(1, 7):
            direct = np.cos(subspace_angles(u[:i].numpy().T, v[:j].numpy().T))
            assert grid[i - 1, j - 1].item() == pytest.approx((direct**2).sum() / min(i, j), abs=1e-12)
    own = overlap_grid(x, 3.0 * x)
    assert (own.diagonal() - 1).abs().max() < 1e-12
