"""The evidence that a comparison takes from its own products is that of the polar factors multiplied anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asym_analysis.adapters import Adapter
from asym_analysis.adapters.initialization_evidence import initialization_evidence
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.alignment.initialization_sums import InitializationSums
from asym_analysis.alignment.module_pairs import all_pairs, factor_frames
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.subspaces.measures import measure_named


@pytest.mark.parametrize("ranks", [(8,), (2, 4, 8)])
def test_sums_beside_a_comparison_are_those_of_the_polar_factors(ranks: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(8, 96, generator=generator)
    updates = []
    for index in range(12):
        rank = ranks[index % len(ranks)]
        noise = torch.randn(rank, 96, generator=generator)
        A = start[:rank] + 0.7 * noise if index % 2 else noise
        updates.append(LowRankUpdate(A, torch.randn(40, rank, generator=generator)))
    overlap = measure_named("overlap")
    frames = factor_frames(overlap, "A", updates, "cpu").by_module(1)
    sums = InitializationSums.beside(overlap, frames, [update.rank for update in updates])
    assert sums is not None
    beside = all_pairs(overlap, frames, sums)
    np.testing.assert_allclose(beside.numpy(), all_pairs(overlap, frames).numpy(), atol=1e-6)

    def polar(A: torch.Tensor) -> np.ndarray:
        left, _, right = np.linalg.svd(A.double().numpy(), full_matrices=False)
        return left @ right

    found, (_, evidence) = sums.found(beside).module(0), initialization_evidence([update.A for update in updates])
    for i, one in enumerate(updates):
        for j, two in enumerate(updates):
            K = polar(one.A) @ polar(two.A).T
            expected = [K.diagonal().sum(), (K.diagonal() ** 2).sum(), (K**2).sum()]
            assert [found.trace[i, j], found.square[i, j], found.total[i, j]] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found.trace.numpy(), evidence.trace, atol=1e-5)


@pytest.mark.parametrize("condition", [1.0, 3.0, 30.0, 1e6, 1e10])
def test_the_overlap_of_random_factors_does_not_depend_on_their_condition(condition: float) -> None:
    """The bases behind marks and values are one; an ill-conditioned A once lost directions."""
    generator = torch.Generator().manual_seed(5)
    dtype = torch.float64 if condition > 1e3 else torch.float32
    singular = torch.logspace(0, -float(np.log10(condition)), 6, dtype=torch.float64)

    def turn() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q

    plain = torch.randn(3, 6, 200, generator=generator, dtype=torch.float64)
    B = torch.randn(40, 1, generator=generator) * torch.ones(6)
    gauges = [turn() @ torch.diag(singular) @ turn() for _ in plain]
    runs = [Adapter.from_factors({"q": ((G @ A).to(dtype), B.to(dtype))}) for G, A in zip(gauges, plain, strict=True)]
    comparison = compare_subspaces(runs, factors=("A",))
    q = [np.linalg.qr(A.numpy().T)[0] for A in plain]
    expected = [((q[i].T @ q[j]) ** 2).sum() / 6 for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(comparison.values[0, 0], expected, atol=1e-5 if dtype == torch.float64 else 1e-6)
    assert (comparison.initialization_marks <= 0).all()


def test_a_zero_factor_or_another_measure_has_no_such_sums() -> None:
    updates = [LowRankUpdate(torch.zeros(4, 32), torch.ones(8, 4)), LowRankUpdate(torch.eye(4, 32), torch.ones(8, 4))]
    for measure, chosen in (("overlap", updates), ("geodesic", updates[1:])):
        frames = factor_frames(measure_named(measure), "A", chosen, "cpu")
        assert InitializationSums.beside(measure_named(measure), frames, [4] * len(chosen)) is None
