"""Intruders scaled in the written adapter, against dense singular values."""

from __future__ import annotations

import pytest
import torch

from asym_analysis import Adapter, intruder_scaling, scale_intruders


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_written_adapter_has_the_scaled_weight() -> None:
    run = Adapter.from_factors({"q": (3 * draw(1, 30), 3 * draw(40, 1, seed=1))}, scaling=0.5)
    W0 = draw(40, 30, seed=2)
    made = scale_intruders(run, {"q.weight": W0}, 0.25)
    tuned = W0 + run["q"].delta()
    U, S, Vh = torch.linalg.svd(tuned, full_matrices=False)
    left = torch.linalg.svd(W0, full_matrices=False)[0]
    chosen = [j for j in range(10) if (left.mT @ U[:, j]).abs().max() < 0.5]
    assert chosen
    expected = tuned - 0.75 * sum(S[j] * torch.outer(U[:, j], Vh[j]) for j in chosen)
    torch.testing.assert_close(W0 + made["q"].delta(), expected)
    row = intruder_scaling(run, {"q.weight": W0}, (0.25,)).frame.iloc[0]
    assert row["change"] == pytest.approx((made["q"].delta().norm() / run["q"].delta().norm()).item(), rel=1e-9)
    same = scale_intruders(run, {"q.weight": 1e3 * W0})
    torch.testing.assert_close(same["q"].delta(), run["q"].delta())
