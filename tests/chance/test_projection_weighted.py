"""The null distribution of the projection-weighted cosine against draws of whole matrices."""

from __future__ import annotations

import numpy as np
import pytest

from asym_analysis.chance.spectral import projection_weighted_reference

DIM, WIDTH = 10, 2


def _drawn(spectrum: np.ndarray, draws: int) -> np.ndarray:
    """Values for a matrix with these singular values and a random subspace, each by a decomposition of its own."""
    generator = np.random.default_rng(3)
    values = []
    for _ in range(draws):
        basis = np.linalg.qr(generator.standard_normal((DIM, WIDTH)))[0]
        directions, cosines, _ = np.linalg.svd(basis[: len(spectrum)], full_matrices=False)
        weights = spectrum @ np.abs(directions)
        values.append(weights @ cosines / weights.sum())
    return np.array(values)


@pytest.mark.parametrize("spectrum", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.2), (1.0, 0.01, 0.001)])
def test_moments_for_another_spectrum_are_those_of_its_draws(spectrum: tuple[float, ...]) -> None:
    reference = projection_weighted_reference(np.array([1.0, 0.9, 0.8]), np.ones(WIDTH), DIM)
    null = reference.between(np.array([spectrum]), np.ones((1, WIDTH)))
    drawn = _drawn(np.array(spectrum), 4000)
    assert float(np.ravel(null.mean)[0]) == pytest.approx(drawn.mean(), abs=0.01)
    assert float(np.ravel(null.std)[0]) == pytest.approx(drawn.std(), rel=0.1)
