from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asym_analysis.adapters import Adapter
from asym_analysis.alignment.aggregation import aggregation_error, merge_interference
from asym_analysis.errors import AdapterError


def runs(count: int, *, frozen: bool = False, seed: int = 0, rank: int = 2) -> list[Adapter]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rank, 10, generator=generator, dtype=torch.float64)
    made = []
    for index in range(count):
        A = shared if frozen else torch.randn(rank, 10, generator=generator, dtype=torch.float64)
        B = torch.randn(12, rank, generator=generator, dtype=torch.float64)
        made.append(Adapter.from_factors({"q": (A, B)}, scaling=1.0 + index, name=str(index)))
    return made


def test_equals_the_dense_computation() -> None:
    group = runs(4)
    deltas = torch.stack([run["q"].delta() for run in group])
    As = torch.stack([run["q"].A for run in group])
    Bs = torch.stack([run["q"].scaling * run["q"].B for run in group])
    row = aggregation_error(group).frame.iloc[0]
    mean = deltas.mean(0)
    assert row.update_norm == pytest.approx(mean.norm().item(), rel=1e-12)
    averaged = (mean - Bs.mean(0) @ As.mean(0)).norm() / mean.norm()
    assert row.both_averaged == pytest.approx(averaged.item(), rel=1e-10)
    each = [((B @ As.mean(0) - d).norm() / d.norm()).item() for B, d in zip(Bs, deltas, strict=True)]
    assert row.shared_A == pytest.approx(np.sqrt(np.mean(np.square(each))), rel=1e-10)
    each = [((Bs.mean(0) @ A - d).norm() / d.norm()).item() for A, d in zip(As, deltas, strict=True)]
    assert row.shared_B == pytest.approx(np.sqrt(np.mean(np.square(each))), rel=1e-10)


def test_a_frozen_A_aggregates_exactly() -> None:
    row = aggregation_error(runs(5, frozen=True)).frame.iloc[0]
    assert row.both_averaged < 1e-14
    assert row.shared_A < 1e-14
    assert row.shared_B > 0.1


def test_different_ranks_have_no_mean() -> None:
    with pytest.raises(AdapterError, match="ranks"):
        aggregation_error([*runs(2), *runs(1, rank=3)])
    assert len(merge_interference([*runs(2), *runs(1, rank=3)]).frame) == 3


@settings(max_examples=10)
@given(st.integers(0, 500))
def test_interference_equals_the_dense_computation(seed: int) -> None:
    group, weights = runs(3, seed=seed), [1.0, 0.5, -0.3]
    deltas = [run["q"].delta() for run in group]
    merged = sum(w * d for w, d in zip(weights, deltas, strict=True))
    frame = merge_interference(group, weights).frame
    for row, delta in zip(frame.itertuples(), deltas, strict=True):
        assert row.norm == pytest.approx(delta.norm().item())
        assert row.retained == pytest.approx(((merged * delta).sum() / delta.norm() ** 2).item(), abs=1e-9)
        assert row.cosine == pytest.approx(((merged * delta).sum() / delta.norm() / merged.norm()).item(), abs=1e-9)
        _, _, right = torch.linalg.svd(delta)
        projector = right[:2].mT @ right[:2]
        assert row.on_own_inputs == pytest.approx(((merged - delta) @ projector).norm().item() / row.norm, abs=1e-9)
    apart = sum((w * d.norm().item()) ** 2 for w, d in zip(weights, deltas, strict=True))
    assert frame.energy_ratio.iloc[0] == pytest.approx(merged.norm().item() ** 2 / apart, rel=1e-9)


def test_orthogonal_updates_do_not_interfere() -> None:
    eye = torch.eye(8, dtype=torch.float64)
    group = [
        Adapter.from_factors({"q": (eye[2 * i : 2 * i + 2], eye[:, 2 * i : 2 * i + 2])}, name=str(i)) for i in range(4)
    ]
    frame = merge_interference(group).frame
    np.testing.assert_allclose(frame.retained, 1)
    np.testing.assert_allclose(frame.on_own_inputs, 0, atol=1e-12)
    np.testing.assert_allclose(frame.energy_ratio, 1)
    with pytest.raises(ValueError, match="weights"):
        merge_interference(group, [1.0])
