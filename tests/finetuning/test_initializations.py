"""Start values against scipy, numpy and their own laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import initial_factor
from asym_analysis.finetuning.initializations import generator_for

WEIGHT = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))


def draw(factor: str, start: str, rank: int = 4, seed: int = 0, weight: torch.Tensor = WEIGHT) -> torch.Tensor:
    return initial_factor(factor, start, weight, rank, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("start", ["zero", "orthonormal", "kaiming", "gaussian", "singular", "last_singular"])
def test_shapes_and_reproducibility(start: str) -> None:
    assert draw("A", start).shape == (4, 30)
    assert draw("B", start).shape == (20, 4)
    assert torch.equal(draw("A", start), draw("A", start))


def test_orthonormal_starts() -> None:
    assert torch.allclose(draw("A", "orthonormal") @ draw("A", "orthonormal").T, torch.eye(4), atol=1e-6)
    assert torch.allclose(draw("B", "orthonormal").T @ draw("B", "orthonormal"), torch.eye(4), atol=1e-6)


def test_orthonormal_starts_are_haar() -> None:
    # One squared entry of a uniform unit vector in R^d is Beta(1/2, (d-1)/2); signs are symmetric.
    entries = np.array([float(draw("A", "orthonormal", rank=3, seed=seed)[1, 7]) for seed in range(1000)])
    assert stats.kstest(entries**2, stats.beta(0.5, 29 / 2).cdf).pvalue > 0.001
    assert stats.binomtest(int((entries > 0).sum()), 1000).pvalue > 0.001


def test_singular_starts_are_the_pretrained_weights_own_singular_vectors() -> None:
    U, _, Vh = linalg.svd(WEIGHT.double().numpy())
    for factor, start, vectors in (
        ("A", "singular", Vh[:4].T),
        ("A", "last_singular", Vh[16:20].T),
        ("B", "singular", U[:, :4]),
        ("B", "last_singular", U[:, 16:]),
    ):
        found = draw(factor, start).double().numpy()
        angles = linalg.subspace_angles(found.T if factor == "A" else found, vectors)
        assert angles.max() < 1e-6, (factor, start)
    cosines = np.abs(draw("A", "singular").double().numpy() @ Vh[:4].T)
    assert np.allclose(cosines, np.eye(4), atol=1e-6)  # each row is one singular vector, in order


def test_kaiming_starts_are_those_of_torch() -> None:
    wide = torch.zeros(400, 600)
    for factor, linear in (("A", torch.nn.Linear(600, 8)), ("B", torch.nn.Linear(8, 400))):
        ours = draw(factor, "kaiming", rank=8, weight=wide)
        assert ours.shape == linear.weight.shape
        assert stats.ks_2samp(ours.flatten().numpy(), linear.weight.detach().flatten().numpy()).pvalue > 0.001
    # docs/theory.md, section 1.5: the scale of a frozen Kaiming B, sqrt(d_out / (3 rank)).
    norm = draw("B", "kaiming", rank=8, weight=torch.zeros(1024, 1024)).norm(dim=0).mean()
    assert float(norm) == pytest.approx(math.sqrt(1024 / 24), rel=0.03)


def test_gaussian_starts_have_unit_rows() -> None:
    rows = draw("A", "gaussian", rank=200, weight=torch.zeros(300, 300)).square().sum(1)
    assert float(rows.mean()) == pytest.approx(1, abs=0.03)


def test_a_modules_start_depends_on_its_name_the_factor_and_the_seed_alone() -> None:
    base = torch.rand(3, generator=generator_for(0, "layer.0.query", "A"))
    assert torch.equal(base, torch.rand(3, generator=generator_for(0, "layer.0.query", "A")))
    for other in ((1, "layer.0.query", "A"), (0, "layer.1.query", "A"), (0, "layer.0.query", "B")):
        assert not torch.equal(base, torch.rand(3, generator=generator_for(*other)))  # type: ignore[arg-type]


def test_a_rank_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AdapterError, match="20 singular vectors"):
        draw("A", "singular", rank=21)
    with pytest.raises(AdapterError, match="rank 21 is above 20, the width of the outputs"):
        draw("B", "orthonormal", rank=21)
