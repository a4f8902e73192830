"""Merges against dense matrices: errors on own inputs, the best scale and weights, and the best update there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from asym_analysis import Adapter, best_merge, crowding, load_adapter, merge_adapters, merge_compensation
from asym_analysis.errors import AdapterError

D_IN, D_OUT, RANK = 12, 10, 3
Moments = list[dict[str, Tensor]]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(seed: int, rank: int = RANK, size: float = 1.0) -> Adapter:
    pair = draw(rank, D_IN, seed=seed), size * draw(D_OUT, rank, seed=1000 + seed)
    return Adapter.from_factors({"q": pair}, scaling=0.5, name=str(seed))


def moments(count: int, rank: int = D_IN) -> Moments:
    """Second moments of so many inputs each: singular where there are fewer than directions."""
    inputs = [draw(rank, D_IN, seed=50 + i) * torch.linspace(0.2, 2, D_IN).roll(i) for i in range(count)]
    return [{"q": x.mT @ x / rank} for x in inputs]


def dense_error(runs: list[Adapter], measured: Moments | None) -> tuple[list[Tensor], object]:
    """The updates, and the error of any matrix in their place."""
    updates = [run["q"].delta() for run in runs]
    inputs = [torch.linalg.pinv(u) @ u for u in updates] if measured is None else [m["q"] for m in measured]

    def error(merged: Tensor) -> float:
        parts = [
            torch.trace((merged - u) @ S @ (merged - u).mT) / torch.trace(u @ S @ u.mT)
            for u, S in zip(updates, inputs, strict=True)
        ]
        return float(torch.stack(parts).mean())

    return updates, error


@pytest.mark.parametrize("measured", [None, moments(3), moments(3, rank=5)], ids=["files", "inputs", "few inputs"])
@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 1.0], [0.2, -0.5, 2.0]])
def test_errors_scales_and_weights_against_dense_matrices(
    measured: Moments | None, weights: list[float] | None
) -> None:
    runs = [adapter(0), adapter(1, size=5.0), adapter(2, rank=2)]
    row = merge_compensation(runs, weights, moments=measured).frame.iloc[0]
    updates, error = dense_error(runs, measured)
    shares = weights or [1 / 3] * 3
    merged = sum(w * u for w, u in zip(shares, updates, strict=True))
    assert row["error"] == pytest.approx(error(merged), rel=1e-9)
    assert row["error_scaled"] == pytest.approx(minimize(lambda c: error(c[0] * merged), [1.0]).fun, rel=1e-6)
    assert row["error_scaled"] == pytest.approx(error(row["scale"] * merged), rel=1e-9)
    free = minimize(lambda w: error(sum(c * u for c, u in zip(w, updates, strict=True))), np.ones(3))
    assert row["error_weighted"] == pytest.approx(free.fun, rel=1e-6, abs=1e-9)
    best = best_merge(runs, moments=measured)["q"].delta()
    assert row["error_optimum"] == pytest.approx(error(best.double()), abs=1e-9)
    directions = [draw(D_OUT, D_IN, seed=90 + i) for i in range(10)]
    assert min(error(best + 1e-3 * one) for one in directions) >= row["error_optimum"] - 1e-12
    assert row["error_optimum"] <= row["error_weighted"] + 1e-12 <= row["error_scaled"] + 2e-12 <= row["error"] + 3e-12
    nuclear = np.mean([np.linalg.norm(x.numpy(), "nuc") for x in updates])
    assert row["gap"] == pytest.approx(np.linalg.norm(merged.numpy(), "nuc") / nuclear, rel=1e-9)
    kept = np.mean([(merged * x).sum().item() / x.norm().item() ** 2 for x in updates])
    assert row["retained_before"] == pytest.approx(kept, rel=1e-9)


def test_adapters_that_read_different_inputs_are_mended_by_a_scale_and_equal_ones_need_none() -> None:
    pairs = [(torch.eye(8)[2 * i : 2 * i + 2], draw(6, 2, seed=i).float()) for i in range(4)]
    apart = [Adapter.from_factors({"q": pair}, name=str(i)) for i, pair in enumerate(pairs)]
    row = merge_compensation(apart).frame.iloc[0]
    assert row[["error", "error_orthogonal", "scale", "error_scaled"]].tolist() == pytest.approx(
        [9 / 16, 9 / 16, 4, 0], abs=1e-6
    )
    twins = [Adapter.from_factors({"q": pairs[0]}, name=str(i)) for i in range(4)]
    assert merge_compensation(twins).frame.iloc[0][["error", "scale"]].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_updates_that_cancel_cannot_be_mended() -> None:
    run = adapter(0)
    opposite = Adapter.from_factors({"q": (run["q"].A, -run["q"].B)}, scaling=0.5, name="opposite")
    row = merge_compensation([run, opposite]).frame.iloc[0]
    assert row[["error", "error_scaled", "error_weighted", "error_optimum"]].tolist() == pytest.approx([1] * 4)
    assert np.isnan(row["scale"]) or abs(row["scale"]) < 1e-6


def test_a_zero_update_does_not_count_and_scales_of_any_size_do() -> None:
    zero = Adapter.from_factors({"q": (draw(2, D_IN, seed=3), torch.zeros(D_OUT, 2, dtype=torch.float64))}, name="zero")
    row = merge_compensation([adapter(0), zero, adapter(1)]).frame.iloc[0]
    assert row["adapters"] == 2
    for size in (1e-150, 1e150):
        far = merge_compensation([adapter(0, size=size), adapter(1, size=size)], [0.5, 0.5]).frame.iloc[0]
        near = merge_compensation([adapter(0), adapter(1)], [0.5, 0.5]).frame.iloc[0]
        assert far["error"] == pytest.approx(near["error"], rel=1e-6)
        assert far["error_optimum"] == pytest.approx(near["error_optimum"], abs=1e-6)
    with pytest.raises(AdapterError, match="nothing to merge"):
        best_merge([zero, zero.replaced(name="other")])


def test_what_cannot_be_merged_is_refused() -> None:
    update = load_adapter({"q.lora_A.weight": torch.ones(1, 4), "q.lora_B.weight": torch.ones(3, 1),
                           "q.lora_magnitude_vector": torch.ones(3)})  # fmt: skip
    with pytest.raises(AdapterError, match="DoRA"):
        merge_compensation([update, update.replaced(name="b")])
    with pytest.raises(ValueError, match="2 entries for 3"):
        merge_compensation([adapter(i) for i in range(3)], moments=moments(2))
    with pytest.raises(AdapterError, match="different shapes"):
        merge_adapters([adapter(0), Adapter.from_factors({"q": (torch.ones(1, 4), torch.ones(3, 1))}, name="x")])
    silent = [{"q": torch.zeros(D_IN, D_IN)}] * 2
    with pytest.raises(AdapterError, match="zero on all inputs"):
        merge_compensation([adapter(0), adapter(1)], moments=silent)


def test_a_sum_is_exact_over_different_modules() -> None:
    first = adapter(0)
    second = Adapter.from_factors({"q": (draw(2, D_IN, seed=9), draw(D_OUT, 2, seed=10)), "v": (torch.ones(1, 4), torch.ones(3, 1))}, name="b")  # noqa: E501  # fmt: skip
    merged = merge_adapters([first, second], [2.0, -1.0])
    torch.testing.assert_close(merged["q"].delta(), 2 * first["q"].delta() - second["q"].delta())
    torch.testing.assert_close(merged["v"].delta(), -second["v"].delta().double())


def test_directions_are_eigenvectors_and_damping_is_a_dense_product() -> None:
    shared = draw(40, 1, seed=77)
    runs = [
        Adapter.from_factors({"q": (draw(3, 30, seed=i), torch.cat([shared, draw(40, 2, seed=i)], 1))}, name=str(i))
        for i in range(5)
    ]
    found = crowding(runs, directions=4)
    vectors, frame = found.directions["q"], found.frame
    projectors = sum(run["q"].B @ torch.linalg.pinv(run["q"].B) for run in runs)
    torch.testing.assert_close(projectors @ vectors.mT, vectors.mT * torch.tensor(frame["use"].to_numpy()))
    torch.testing.assert_close((vectors[0] @ shared / shared.norm()).abs(), torch.ones(1, dtype=torch.float64))
    total = merge_adapters(runs)
    factors = torch.diag(torch.tensor(frame["damping"].to_numpy()))
    dense = total["q"].delta()
    expected = dense - vectors.mT @ (torch.eye(4, dtype=torch.float64) - factors) @ vectors @ dense
    torch.testing.assert_close(found.damp(total)["q"].delta(), expected)
    inputs = crowding([Adapter.from_factors({"q": (r["q"].B.mT, r["q"].A.mT)}, name=r.name) for r in runs], side="A", directions=4)  # noqa: E501  # fmt: skip
    turned = merge_adapters([Adapter.from_factors({"q": (r["q"].B.mT, r["q"].A.mT)}, name=r.name) for r in runs])
    torch.testing.assert_close(inputs.damp(turned)["q"].delta(), expected.mT)
