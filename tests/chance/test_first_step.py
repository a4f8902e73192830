"""What one gradient step explains: predicted overlap of two random sketches, against simulated sketches."""

from __future__ import annotations

import numpy as np
import pytest

from asym_analysis.chance import mean_sketch_overlap


def simulated(gradients: tuple[np.ndarray, np.ndarray], rank: int, pairs: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(pairs):
        sketches = [g @ rng.standard_normal((g.shape[1], rank)) for g in gradients]
        one, two = (u[:, : min(rank, np.linalg.matrix_rank(s))] for s in sketches for u in [np.linalg.svd(s)[0]])
        found.append(((one.T @ two) ** 2).sum() / min(one.shape[1], two.shape[1]))
    return np.array(found)


@pytest.mark.parametrize(
    ("power", "plain", "measured"), [(0.5, 0.1576, 0.1515), (1.0, 0.4761, 0.4625), (1.5, 0.646, 0.629)]
)
def test_the_correction_meets_the_published_simulation(power: float, plain: float, measured: float) -> None:
    """d = 256, rank 8: docs/theory.md, section 6.6."""
    spectrum = np.arange(1, 257.0) ** -power
    assert mean_sketch_overlap(spectrum, 8, corrected=False) == pytest.approx(plain, abs=6e-4)
    assert mean_sketch_overlap(spectrum, 8) == pytest.approx(measured, abs=2e-3)


def test_flat_gradients_leave_chance() -> None:
    assert mean_sketch_overlap(np.ones(64), 8) == pytest.approx(8 / 64, rel=1e-10)


def test_a_gradient_of_lower_rank_fixes_the_column_space() -> None:
    """Rank 3 under an adapter of rank 8: both B span the same three directions, so they overlap entirely."""
    rng = np.random.default_rng(0)
    gradient = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 40))
    values = np.linalg.svd(gradient, compute_uv=False)
    assert mean_sketch_overlap(values, 8) == pytest.approx(1.0, abs=1e-12)
    assert simulated((gradient, gradient), 8, 3, seed=1) == pytest.approx(1.0)
    noisy = values + 1e-8  # float32 rounding of the same gradient
    assert mean_sketch_overlap(noisy, 8, tolerance=1e-6) == pytest.approx(1.0, abs=1e-7)


def test_two_gradients_of_different_rank() -> None:
    rng = np.random.default_rng(2)
    first = np.diag(np.arange(1.0, 41.0) ** -1)
    second = first[:, :3] @ rng.standard_normal((3, 40))
    (U, S, _), (V, T, _) = np.linalg.svd(first), np.linalg.svd(second)
    predicted = mean_sketch_overlap(S, 6, other=T, squared_cosines=(U.T @ V) ** 2)
    measured = simulated((first, second), 6, 400, seed=3)
    assert abs(measured.mean() - predicted) < 4 * measured.std() / 20 + 0.01


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="is empty"):
        mean_sketch_overlap(np.zeros(3), 1)
    with pytest.raises(ValueError, match="is empty"):
        mean_sketch_overlap(np.ones(3), 0)
    with pytest.raises(ValueError, match="need both"):
        mean_sketch_overlap(np.ones(3), 1, other=np.ones(3))
