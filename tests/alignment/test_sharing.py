from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asym_analysis.adapters import Adapter
from asym_analysis.alignment.shared_energy import shared_energy
from asym_analysis.alignment.sharing import joint_diagonalization
from asym_analysis.errors import AdapterError


def adapters(count: int, rank: int, size: int, *, seed: int = 0, start: torch.Tensor | None = None) -> list[Adapter]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        A = torch.randn(rank, size, generator=generator, dtype=torch.float64)
        if start is not None:
            A = start + 0.1 * A
        B = torch.randn(size + 3, rank, generator=generator, dtype=torch.float64)
        made.append(Adapter.from_factors({"q": (A, B)}, scaling=0.5, name=str(index)))
    return made


def dense(adapter: Adapter) -> np.ndarray:
    delta = adapter["q"].delta().numpy()
    return delta / np.linalg.norm(delta)


@pytest.mark.parametrize("diagonal", [False, True])
def test_captured_energy_never_falls(diagonal: bool) -> None:
    fit = joint_diagonalization(adapters(6, 2, 24), 4, diagonal=diagonal, iterations=60).modules["q"]
    assert (np.diff(fit.history) >= -1e-9).all()
    assert len(fit.history) > 4
    assert fit.history[-1] == pytest.approx((1 - fit.errors).sum(), abs=1e-6)


@pytest.mark.parametrize("diagonal", [False, True])
def test_exact_where_the_ranks_fit(diagonal: bool) -> None:
    runs = adapters(4, 2, 24)
    shared = joint_diagonalization(runs, 8, diagonal=diagonal)
    assert shared.frame.error.max() < 1e-12
    fit = shared.modules["q"]
    core = fit.cores[2] * float(fit.norms[2])
    torch.testing.assert_close(fit.U @ (torch.diag(core) if diagonal else core) @ fit.V.mT, runs[2]["q"].delta())
    assert len(repr(shared)) < 100
    assert len(repr(fit)) < 100


def test_orthogonal_updates_meet_the_lower_bound() -> None:
    # docs/theory.md, section 8, T16: d = 64, r = 2, k = 3, n = 32 orthogonal unit updates; error .953
    # against the bound .719.
    eye = torch.eye(64, dtype=torch.float64)
    runs = [
        Adapter.from_factors({"q": (eye[2 * i : 2 * i + 2], eye[:, 2 * i : 2 * i + 2])}, name=str(i)) for i in range(32)
    ]
    error = joint_diagonalization(runs, 3).frame.error.mean()
    assert error == pytest.approx(0.953, abs=0.001)
    assert error >= 1 - 3**2 / 32


def test_errors_and_bases_agree_with_dense_matrices() -> None:
    runs = adapters(5, 3, 20)
    fit = joint_diagonalization(runs, 4).modules["q"]
    U, V = fit.U.numpy(), fit.V.numpy()
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-10)
    for index, run in enumerate(runs):
        target = dense(run)
        np.testing.assert_allclose(fit.cores[index].numpy(), U.T @ target @ V, atol=1e-10)
        error = np.linalg.norm(target - U @ fit.cores[index].numpy() @ V.T) ** 2
        assert fit.errors[index] == pytest.approx(error, abs=1e-10)
    # No better pair of bases lies nearby.
    captured = (1 - fit.errors).sum()
    generator = np.random.default_rng(0)
    for _ in range(20):
        left, _ = np.linalg.qr(U + 0.05 * generator.standard_normal(U.shape))
        right, _ = np.linalg.qr(V + 0.05 * generator.standard_normal(V.shape))
        assert sum(np.linalg.norm(left.T @ dense(run) @ right) ** 2 for run in runs) <= captured + 1e-6


@settings(max_examples=8)
@given(st.integers(0, 1000), st.floats(0.2, 5))
def test_gauge_and_strength_change_nothing(seed: int, stretch: float) -> None:
    runs = adapters(3, 2, 12, seed=seed)
    G = torch.tensor([[stretch, 0.5], [0.0, 1.0]], dtype=torch.float64)
    changed = [
        Adapter.from_factors({"q": (G @ run["q"].A, stretch * run["q"].B @ torch.linalg.inv(G))}, name=run.name)
        for run in runs
    ]
    errors = [joint_diagonalization(group, 3, iterations=30, tolerance=0.0).frame.error for group in (runs, changed)]
    np.testing.assert_allclose(errors[0], errors[1], atol=1e-6)


def test_a_shared_start_compresses_without_anything_learned() -> None:
    start = torch.randn(4, 100, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    independent = joint_diagonalization(adapters(24, 4, 100), 12).frame.error.mean()
    shared = joint_diagonalization(adapters(24, 4, 100, start=start), 12).frame.error.mean()
    assert shared < independent - 0.1


def test_zero_updates_and_wrong_arguments() -> None:
    runs = adapters(3, 2, 12)
    dead = Adapter.from_factors({"q": (runs[0]["q"].A, 0 * runs[0]["q"].B)}, name="dead")
    frame = joint_diagonalization([*runs, dead], 3).frame.set_index("adapter")
    assert np.isnan(frame.loc["dead", "error"])
    assert frame.error.notna().sum() == 3
    with pytest.raises(AdapterError, match="nothing to share"):
        joint_diagonalization([dead], 3)
    with pytest.raises(ValueError, match="at least 1"):
        joint_diagonalization(runs, 0)
    other = Adapter.from_factors({"q": (torch.ones(2, 13), torch.ones(15, 2))}, name="other")
    with pytest.raises(AdapterError, match="different base models"):
        joint_diagonalization([*runs, other], 3)


def test_shared_energy_with_and_without_the_start() -> None:
    start = torch.randn(4, 128, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    runs = adapters(8, 4, 128, start=start)
    initial = Adapter.from_factors({"q": (start, torch.zeros(131, 4, dtype=torch.float64))})
    known = shared_energy(runs, [4], initial=initial, draws=10).frame.set_index("quantity")
    assert known.loc["A", "energy"] > 0.9  # all of it the start: nothing common was learned
    assert known.loc["A", "energy"] > known.loc["A", "null_mean"] + 20 * known.loc["A", "null_std"]
    for quantity in ("A - A0", "B", "inputs - A0", "outputs"):
        row = known.loc[quantity]
        assert row.energy == pytest.approx(row.null_mean, abs=5 * row.null_std + 0.02), quantity
    assert known.loc["inputs", "energy"] > 0.9
    unknown = shared_energy(runs, [4], draws=10).frame.set_index("quantity")
    assert unknown.loc["A - mean", "energy"] < 0.35
    assert "A - A0" not in unknown.index
    assert "A - mean" not in set(shared_energy(adapters(8, 4, 128), [4], draws=2).frame.quantity)


def test_shared_energy_equals_dense_eigenvalues() -> None:
    runs = adapters(5, 2, 16)
    found = shared_energy(runs, [1, 3], draws=2).frame.set_index(["quantity", "rank"]).energy
    total = sum(dense(run).T @ dense(run) for run in runs)
    values = np.linalg.eigvalsh(total)[::-1]
    assert found["inputs", 1] == pytest.approx(values[0] / values.sum())
    assert found["inputs", 3] == pytest.approx(values[:3].sum() / values.sum())
