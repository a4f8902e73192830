"""The largest singular values of noise, against dense draws."""

from __future__ import annotations

import numpy as np
import pytest

from asym_analysis.chance import top_noise_energy


@pytest.mark.parametrize(("rows", "columns", "count"), [(12, 9, 1), (9, 30, 3), (5, 5, 4)])
def test_against_dense_matrices(rows: int, columns: int, count: int) -> None:
    rng = np.random.default_rng(0)
    values = np.linalg.svd(rng.standard_normal((4000, rows, columns)), compute_uv=False)[:, :count]
    sums = (values**2).sum(1)
    mean, error = top_noise_energy(rows, columns, count)
    assert abs(sums.mean() - mean) < 4 * np.hypot(error, sums.std() / 4000**0.5)
    assert 0 < error < 0.02 * mean
    assert top_noise_energy(columns, rows, count) == (mean, error)


def test_none_and_all() -> None:
    assert top_noise_energy(7, 3, 0) == (0.0, 0.0)
    assert top_noise_energy(7, 3, 5) == (21.0, 0.0)
