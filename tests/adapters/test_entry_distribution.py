from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asym_analysis.adapters.entry_distribution import _log_probabilities, identify_start, infer_movement


def uniform(rank: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(rank, size, generator=generator, dtype=torch.float64) - 1) / size**0.5


def move(start: torch.Tensor, share: float, correlation: float, kind: str, seed: int) -> torch.Tensor:
    """Move by exactly `share` of the length, with exactly that correlation with the start."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    if kind == "few columns":
        noise *= torch.where(torch.rand(start.shape[1], generator=generator) < 0.1, 5.0, 0.5)
    if kind == "low rank":
        left = torch.randn(start.shape[0], 2, generator=generator, dtype=torch.float64)
        noise = left @ torch.randn(2, start.shape[1], generator=generator, dtype=torch.float64) + 0.3 * noise
    noise -= (noise * start).sum() / start.square().sum() * start
    noise /= noise.norm()
    along = start / start.norm()
    return start + share * start.norm() * (correlation * along + math.sqrt(1 - correlation**2) * noise)


@pytest.mark.parametrize("kind", ["even", "few columns", "low rank"])
@pytest.mark.parametrize("share", [0.03, 0.2, 1.0])
def test_movement_is_within_its_standard_error(kind: str, share: float) -> None:
    scores, errors = [], []
    for seed in range(8):
        correlation = float(np.random.default_rng(seed).uniform(-0.3, 0.3))
        factor = move(uniform(8, 768, seed), share, correlation, kind, seed)
        found = infer_movement(factor)
        assert found.note == ""
        scores.append((found.value - share) / found.std_error)
        errors.append(abs(found.value - share) / share)
    assert np.median(errors) < 0.2
    assert np.mean(np.abs(scores) < 2) >= 0.75
    assert np.abs(scores).max() < 5


def test_the_edge_sees_what_the_variance_cannot() -> None:
    by_variance, by_edge = [], []
    for seed in range(6):
        factor = move(uniform(8, 768, seed), 0.05, 0.0, "even", seed)
        excess = float(factor.square().mean()) * 3 * 768 - 1
        by_variance.append(abs(math.sqrt(max(excess, 0)) - 0.05))
        by_edge.append(abs(infer_movement(factor).value - 0.05))
    assert np.median(by_edge) < 0.2 * np.median(by_variance)


@pytest.mark.parametrize("correlation", [-0.5, 0.5])
def test_shrinking_and_growing_are_told_from_noise(correlation: float) -> None:
    factor = move(uniform(16, 2048, 3), 0.2, correlation, "even", 3)
    found = infer_movement(factor)
    assert found.value == pytest.approx(0.2, abs=3 * found.std_error)
    assert found.correlation == pytest.approx(correlation, abs=0.15)
    assert found.std_error < 0.02


def test_a_factor_that_did_not_move_has_an_upper_limit_only() -> None:
    found = infer_movement(uniform(8, 768, 0))
    assert math.isnan(found.value)
    assert found.upper < 0.03
    assert "too small to resolve" in found.note


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [("pissa_niter_16", "base weights"), ("olora", "base weights"), ("eva", "base weights"), (False, "to the user")],
)
def test_schemes_that_start_elsewhere_are_refused_by_name(recorded: object, reason: str) -> None:
    scheme, note = identify_start([uniform(8, 256, 0)], recorded=recorded)
    assert scheme is None
    assert reason in note


def test_schemes_are_told_from_the_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(8, 256, generator=generator, dtype=torch.float64)
    assert identify_start([uniform(8, 256, 0)]) == ("kaiming_uniform", "")
    assert identify_start([move(uniform(8, 768, 1), 0.9, 0.1, "few columns", 0)]) == ("kaiming_uniform", "")
    assert identify_start([normal / 8]) == ("gaussian", "")
    assert identify_start([torch.linalg.qr(normal.mT).Q.mT]) == ("orthonormal", "")
    assert identify_start([uniform(64, 8, 0).mT], "B") == ("kaiming_uniform", "")  # B of a Kaiming start: fan_in = rank
    scheme, note = identify_start([0.02 * normal])
    assert scheme is None
    assert "no known scheme" in note


def test_pruned_zero_and_contradicting_factors_are_not_estimated() -> None:
    pruned = uniform(8, 256, 0)
    pruned[:, ::2] = 0
    assert "pruned" in identify_start([pruned], recorded=True)[1]
    assert "zero" in identify_start([torch.zeros(8, 256)])[1]
    generator = torch.Generator().manual_seed(0)
    other = 0.3 * torch.randn(8, 256, generator=generator) / 16
    assert "contradict" in identify_start([other], recorded=True)[1]


def test_without_an_edge_only_large_movements_are_told() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(8, 768, generator=generator, dtype=torch.float64) / 8
    small, large = (infer_movement(move(start, share, 0.0, "even", 1), "gaussian") for share in (0.1, 1.0))
    assert math.isnan(small.value)
    assert small.upper > 0.1
    assert large.value == pytest.approx(1.0, abs=2 * large.std_error)


def test_probabilities_agree_with_simulation() -> None:
    from asym_analysis.adapters.entry_distribution import CORRELATIONS, EDGES, MOVEMENTS

    table = np.exp(_log_probabilities())
    assert np.allclose(table.sum(-1), 1, atol=1e-8)
    m, rho = MOVEMENTS[40], CORRELATIONS[17]
    generator = np.random.default_rng(0)
    wide = generator.uniform(-1, 1, 400_000) * (1 + rho * m)
    spread = np.where(generator.random(400_000) < 0.8, 0.5, 2.0)
    noise = generator.standard_normal(400_000) * spread * m * math.sqrt((1 - rho**2) / 3)
    counts, _ = np.histogram(np.abs(wide + noise), np.append(EDGES, np.inf))
    expected = table[4, 40, 17] * 400_000
    kept = expected > 50
    assert ((counts - expected)[kept] ** 2 / expected[kept]).mean() == pytest.approx(1, abs=0.3)
