"""Each question against dense matrices, and each null against random adapters."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis import Adapter, sample_adapters
from asym_analysis import questions as ask
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, read_result

D_IN, D_OUT, RANK = 24, 16, 3


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapter(
    seed: int = 0, *, modules: tuple[str, ...] = ("layers.0.q_proj", "layers.1.v_proj"), rank: int = RANK
) -> Adapter:
    pairs = {
        m: (draw(rank, D_IN, seed=2 * seed + 100 * i), draw(D_OUT, rank, seed=2 * seed + 100 * i + 1))
        for i, m in enumerate(modules)
    }
    return Adapter.from_factors(pairs, scaling=0.5, name=f"run {seed}")


def moments(seed: int = 5, power: float = 1.0) -> dict[str, torch.Tensor]:
    values = torch.arange(1, D_IN + 1, dtype=torch.float64) ** -power
    turn = torch.linalg.qr(draw(D_IN, D_IN, seed=seed))[0]
    return dict.fromkeys(("layers.0.q_proj", "layers.1.v_proj"), (turn * values) @ turn.mT)


def test_null_space_energy_against_dense_matrices() -> None:
    run, S = adapter(), moments()["layers.0.q_proj"]
    row = ask.null_space_energy(run, moments(), weak=0.25).frame.iloc[0]
    A, dW = run["layers.0.q_proj"].A, run["layers.0.q_proj"].delta()
    weak = torch.linalg.eigh(S)[1][:, :6]
    projector = A.mT @ torch.linalg.inv(A @ A.mT) @ A
    assert row["k"] == 6
    assert row["weak_share"] == pytest.approx(torch.trace(weak.mT @ projector @ weak).item() / RANK, rel=1e-10)
    assert row["update_weak_share"] == pytest.approx(((dW @ weak).norm() / dW.norm()).item() ** 2, rel=1e-10)
    for name, factor in (("energy", A), ("update_energy", dW)):
        expected = torch.trace(factor @ S @ factor.mT) * D_IN / (factor.norm() ** 2 * torch.trace(S))
        assert row[name] == pytest.approx(expected.item(), rel=1e-10)


def test_null_space_nulls_are_those_of_random_adapters() -> None:
    frames = [ask.null_space_energy(adapter(seed), moments()).frame for seed in range(60)]
    table = pd.concat(frames)
    for value, mean, std in (
        ("weak_share", "weak_null_mean", "weak_null_std"),
        ("update_weak_share", "weak_null_mean", "update_weak_null_std"),
        ("energy", None, "null_std"),
        ("update_energy", None, "update_null_std"),
    ):
        z = (table[value] - (1.0 if mean is None else table[mean])) / table[std]
        assert abs(z.mean()) < 4 / math.sqrt(len(z))
        assert 0.75 < z.std() < 1.3
    assert 0.3 < table["weak_p_value"].mean() < 0.7


def test_response_against_measured_outputs() -> None:
    run, S = adapter(), moments()
    base = {f"{m}.weight": draw(D_OUT, D_IN, seed=9) for m in run}
    row = ask.null_space_energy(run, S, base=base).frame.iloc[0]
    dW, W0, moment = run["layers.0.q_proj"].delta(), base["layers.0.q_proj.weight"], S["layers.0.q_proj"]
    inputs = torch.linalg.cholesky(moment)  # columns with this second moment
    assert row["response"] == pytest.approx(((dW @ inputs).norm() / (W0 @ inputs).norm()).item(), rel=1e-9)
    assert row["response"] / row["response_null"] == pytest.approx(row["update_energy"] ** 0.5, rel=1e-9)
    assert ask.null_space_energy(run, S).frame["response"].isna().all()


def test_task_ratio_is_one_on_the_same_inputs() -> None:
    frame = ask.null_space_energy(adapter(), moments(), task_moments=moments()).frame
    assert frame["task_ratio"].to_numpy() == pytest.approx(1.0)


def test_base_alignment_against_dense_matrices() -> None:
    run = adapter()
    base = {f"{m}.weight": draw(D_OUT, D_IN, seed=9) for m in run}
    row = ask.base_alignment(run, base, k=4).frame.iloc[0]
    update = run["layers.0.q_proj"]
    dW, W0 = update.delta(), base["layers.0.q_proj.weight"]
    U, _, Vh = np.linalg.svd(W0.numpy())
    rows = np.linalg.qr(update.A.mT.numpy())[0]
    assert row["A_top"] == pytest.approx((rows.T @ Vh[:4].T).__pow__(2).sum() / 3, rel=1e-9)
    coordinates = U.T @ dW.numpy() @ Vh.T
    share = (np.diag(coordinates) ** 2).sum() / dW.norm().item() ** 2
    assert row["spectral_share"] == pytest.approx(share, rel=1e-9)
    assert row["top_share"] == pytest.approx((coordinates[:4, :4] ** 2).sum() / dW.norm().item() ** 2, rel=1e-9)
    u, _, vh = np.linalg.svd(dW.numpy(), full_matrices=False)
    seen = np.linalg.norm(u[:, :3].T @ W0.numpy() @ vh[:3].T)
    assert row["amplification"] == pytest.approx(dW.norm().item() / seen, rel=1e-9)
    assert row["relative_norm"] == pytest.approx((dW.norm() / W0.norm()).item(), rel=1e-9)
    assert row["A_condition"] == pytest.approx(np.linalg.cond(update.A.numpy()), rel=1e-9)


def test_base_alignment_of_random_adapters_is_at_chance() -> None:
    base = {f"layers.{i}.{p}.weight": draw(D_OUT, D_IN, seed=9) for i, p in ((0, "q_proj"), (1, "v_proj"))}
    table = pd.concat([ask.base_alignment(adapter(seed), base, k=4).frame for seed in range(40)])
    for side in ("A", "B"):
        z = (table[f"{side}_top"] - table[f"{side}_null_mean"]) / table[f"{side}_null_std"]
        assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert table["spectral_share"].mean() == pytest.approx(1 / D_IN, rel=0.3)
    assert (1 / table["amplification"] ** 2).mean() == pytest.approx(
        (1 / table["random_amplification"] ** 2).mean(), rel=0.2
    )


def test_initialization_statistics_against_dense_matrices() -> None:
    now, before = adapter(0), adapter(1)
    run = Adapter({m: now.source(m) for m in now}, name="run", initial=before)
    row = ask.initialization_statistics(run, moments=moments()).frame.iloc[0]
    update, start = now["layers.0.q_proj"], before["layers.0.q_proj"]
    first, second = 0.5 * update.B @ start.A, 0.5 * update.B @ (update.A - start.A)
    assert row["through_initial"] == pytest.approx(first.norm().item(), rel=1e-10)
    assert row["through_movement"] == pytest.approx(second.norm().item(), rel=1e-10)
    assert row["cosine"] == pytest.approx(
        (first * second).sum().item() / (first.norm() * second.norm()).item(), rel=1e-10
    )
    assert row["rate_of_A"] == pytest.approx(0.25 * np.linalg.norm(update.B.numpy(), 2) ** 2, rel=1e-10)
    angle = math.acos((update.A * start.A).sum().item() / (update.A.norm() * start.A.norm()).item())
    assert row["A_turn"] == pytest.approx(angle, abs=1e-7)
    S = moments()["layers.0.q_proj"]
    ratio = torch.trace(update.A @ S @ update.A.mT) / torch.trace(start.A @ S @ start.A.mT)
    assert row["feature_change"] == pytest.approx(ratio.item(), rel=1e-10)
    with pytest.raises(AdapterError, match="does not record"):
        ask.initialization_statistics(now)


def test_the_condition_of_a_random_b_is_at_its_null() -> None:
    runs = [Adapter.from_factors({"q": (draw(8, 64, seed=i), draw(256, 8, seed=50 + i))}) for i in range(20)]
    rows = pd.concat([ask.initialization_statistics(run, run).frame for run in runs])
    # The edges of Marchenko and Pastur are reached from inside, by r^(-2/3) of the spread.
    assert (rows["B_condition"] / rows["B_condition_null"]).median() == pytest.approx(0.92, abs=0.08)
    assert rows["B_cosine"].median() == pytest.approx(rows["B_cosine_null"].median(), rel=0.15)


def test_allocation_is_the_best_of_all() -> None:
    """Exhaustive search over the ranks of two modules, with inputs and outputs weighted."""
    run, S = adapter(rank=3), moments()
    G = dict.fromkeys(S, torch.diag(torch.linspace(0.1, 2, D_OUT, dtype=torch.float64)))
    found = ask.allocate_rank(run, 3, moments=S, sensitivities=G)
    roots = {m: [torch.linalg.cholesky(x) for x in (G[m], S[m])] for m in run}
    spectra = {m: torch.linalg.svdvals(roots[m][0].mT @ run[m].delta() @ roots[m][1]).square() for m in run}
    names = list(run)
    kept = {a: spectra[names[0]][:a].sum() + spectra[names[1]][: 3 - a].sum() for a in range(4)}
    best = max(kept, key=lambda a: kept[a])
    assert found.rank_pattern == {names[0]: best, names[1]: 3 - best}
    whole = sum(s[:3].sum() for s in spectra.values())
    assert found.summary()["energy_kept"].item() == pytest.approx((kept[best] / whole).item(), rel=1e-9)
    assert (found.curve["energy_kept"] >= found.curve["uniform_energy_kept"] - 1e-12).all()
    assert found.curve["energy_kept"].iloc[-1] == pytest.approx(1)


def test_the_allocated_ranks_are_written() -> None:
    """The truncated adapter holds the best approximation of each module, and modules of rank 0 are gone."""
    run = adapter(rank=3)
    scaled = Adapter.from_factors({m: (run[m].A, (1 if i else 1e-6) * run[m].B) for i, m in enumerate(run)})
    found = ask.allocate_rank(scaled, 2)
    smaller = scaled.truncate(rank=found.rank_pattern)
    (kept,) = list(smaller)
    assert found.rank_pattern[kept] == 2 == smaller.source(kept).rank
    U, S, Vh = torch.linalg.svd(scaled[kept].delta(), full_matrices=False)
    torch.testing.assert_close(smaller[kept].delta(), (U[:, :2] * S[:2]) @ Vh[:2], atol=1e-9, rtol=1e-9)
    with pytest.raises(AdapterError, match="has no module"):
        scaled.truncate(rank={"other": 1})


def test_a_chain_of_random_blocks_is_at_chance() -> None:
    frame = ask.chain_coverage([adapter(seed) for seed in range(12)]).frame
    later = frame[(frame["block"] > 1) & (frame["block"] < 8)]
    z = (later["inside"] - later["inside_null_mean"]) / later["inside_null_std"]
    assert abs(z.mean()) < 1
    assert (frame["union_rank"] == frame["most_rank"]).all()
    assert frame.loc[frame["block"] == 12, "coverage_low"].min() > 0
    assert (frame.loc[frame["block"] < 8, "coverage_low"] == 0).all()


def test_a_repeated_block_adds_nothing() -> None:
    frame = ask.chain_coverage([adapter(0), adapter(0)]).frame
    assert frame.loc[frame["block"] == 2, "inside"].to_numpy() == pytest.approx(1)
    assert (frame["union_rank"] == RANK).all()


def test_factor_movement_tells_training_in_turn() -> None:
    first, second = adapter(0), adapter(1)
    mixed = Adapter.from_factors({m: (first[m].A, second[m].B) for m in first}, scaling=0.5, name="mixed")
    frame = ask.factor_movement([first, mixed, second]).frame
    assert frame.loc[frame["first"] == "run 0", "A_share"].tolist() == [0.0, 0.0]
    assert frame.loc[frame["second"] == "run 1", "A_share"].tolist() == [1.0, 1.0]
    assert frame["even_share"].isna().all()


def test_the_even_share_is_that_of_equal_relative_steps() -> None:
    before, A, B = adapter(0), {}, {}
    for module in before:
        A[module], B[module] = (x + 0.1 * x.norm() * unit / unit.norm() for x, unit in (
            (before[module].A, draw(RANK, D_IN, seed=7)), (before[module].B, draw(D_OUT, RANK, seed=8))))  # fmt: skip
    after = Adapter.from_factors({m: (A[m], B[m]) for m in before}, scaling=0.5, name="after")
    frame = ask.factor_movement([before, after]).frame
    # Steps of a tenth of the factors before are nearly equal relative to the factors after.
    assert frame["A_share"].to_numpy() == pytest.approx(frame["even_share"].to_numpy(), abs=0.05)
    dA, dB = after["layers.0.q_proj"].A - before["layers.0.q_proj"].A, after["layers.0.q_proj"].B - before["layers.0.q_proj"].B  # noqa: E501  # fmt: skip
    own = [((after["layers.0.q_proj"].B @ dA).norm() / dA.norm() * after["layers.0.q_proj"].A.norm()) ** 2,
           ((dB @ after["layers.0.q_proj"].A).norm() / dB.norm() * after["layers.0.q_proj"].B.norm()) ** 2]  # fmt: skip
    assert frame["even_share"].iloc[0] == pytest.approx((own[0] / sum(own)).item(), rel=1e-9)


@given(st.integers(0, 50))
def test_crowding_of_independent_adapters_is_rarely_seen(seed: int) -> None:
    runs = [adapter(4 * seed + i, modules=("q",)) for i in range(4)]
    frame = ask.crowding(runs, directions=1, draws=60, seed=seed).frame
    assert frame["use"].iloc[0] < 1.25 * frame["null_high"].iloc[0]


def test_crowding_finds_a_shared_direction() -> None:
    shared = draw(D_OUT, 1, seed=77)
    runs = []
    for seed in range(5):
        base = adapter(seed, modules=("q",))["q"]
        runs.append(Adapter.from_factors({"q": (base.A, torch.cat([shared, base.B[:, 1:]], 1))}, name=str(seed)))
    frame = ask.crowding(runs, directions=3).frame
    assert frame["use"].iloc[0] == pytest.approx(5, rel=1e-9)
    assert frame["crowded"].tolist()[0]
    assert 0 < frame["damping"].iloc[0] < 1


def test_projection_terms_sum_to_one() -> None:
    run = adapter()
    base = {f"{m}.weight": draw(D_OUT, D_IN, seed=9) for m in run}
    frame = ask.projection_terms(run, base).frame
    for column in ("parameters_share", "update_share", "even_share"):
        assert frame[column].sum() == pytest.approx(1)
    assert frame["bound_without"].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    dense = {
        p: run[m].delta().norm().item() / base[f"{m}.weight"].norm().item()
        for m, p in zip(run, ("q_proj", "v_proj"), strict=True)
    }
    assert frame.set_index("projection")["relative_norm"].to_dict() == pytest.approx(dense)


def test_direction_worth_sums_to_the_first_order_change() -> None:
    run = adapter()
    gradients = {m: draw(D_OUT, D_IN, seed=3) for m in run}
    frame = ask.direction_worth(run, gradients).frame
    for module in run:
        total = (gradients[module] * run[module].delta()).sum().item()
        assert frame.loc[frame["module"] == module, "effect"].sum() == pytest.approx(total, rel=1e-9)
    table = pd.concat([ask.direction_worth(adapter(s), gradients).frame for s in range(40)])
    assert table["z"].std() == pytest.approx(1, rel=0.15)


def test_gradient_alignment_of_random_adapters_is_at_chance() -> None:
    gradients = {m: draw(D_OUT, D_IN, seed=3) for m in adapter()}
    table = pd.concat([ask.gradient_alignment(adapter(s), gradients).frame for s in range(40)])
    z = (table["overlap"] - table["null_mean"]) / table["null_std"]
    assert abs(z.mean()) < 4 / math.sqrt(len(z))


def test_scaling_intruders_to_zero_removes_them() -> None:
    run = Adapter.from_factors({"q": (3 * draw(1, 30), 3 * draw(40, 1, seed=1))})
    W0 = draw(40, 30, seed=2)
    frame = ask.intruder_scaling(run, {"q.weight": W0}, (0.0, 1.0), moments={"q": torch.eye(30)}).frame.set_index(
        "scale"
    )
    assert frame.loc[1.0, ["change", "task_kept", "general_change"]].tolist() == pytest.approx([1, 1, 1])
    tuned = W0 + run["q"].delta()
    U, S, Vh = torch.linalg.svd(tuned, full_matrices=False)
    left = torch.linalg.svd(W0, full_matrices=False)[0]
    chosen = [j for j in range(10) if (left.mT @ U[:, j]).abs().max() < 0.5]
    without = tuned - sum(S[j] * torch.outer(U[:, j], Vh[j]) for j in chosen)
    assert frame.loc[0.0, "intruders"] == len(chosen) >= 1
    kept = ((without - W0) * run["q"].delta()).sum() / run["q"].delta().square().sum()
    assert frame.loc[0.0, "uniform_change"] == pytest.approx(kept.item() ** 2, rel=1e-9)
    assert frame.loc[0.0, "change"] == pytest.approx(((without - W0).norm() / run["q"].delta().norm()).item(), rel=1e-9)


def test_experts_that_share_a_are_found() -> None:
    A = draw(RANK, D_IN)
    modules = {f"layers.0.experts.{i}.up": (A, draw(D_OUT, RANK, seed=i)) for i in range(4)}
    frame = ask.expert_sharing(Adapter.from_factors(modules), (RANK,)).frame.set_index("factor")
    assert frame.loc["A", "energy"] == pytest.approx(1)
    assert abs(frame.loc["B", "energy"] - frame.loc["B", "null_mean"]) < 5 * frame.loc["B", "null_std"]
    assert frame.loc["A", "shared_parameters"] == RANK * D_IN + 4 * RANK * RANK
    with pytest.raises(AdapterError, match="no experts"):
        ask.expert_sharing(adapter())


def test_clusters_separate_two_families() -> None:
    families = [adapter(seed, modules=("q",), rank=2) for seed in (0, 50)]
    runs = [
        Adapter.from_factors({"q": (families[i % 2]["q"].A, (1 + i) * families[i % 2]["q"].B)}, name=str(i))
        for i in range(6)
    ]
    found = ask.clustered_diagonalization(runs, 2, (1, 2))
    assert found.frame["cluster"].tolist() in ([0, 1] * 3, [1, 0] * 3)
    assert found.sizes["error"].iloc[1] == pytest.approx(0, abs=1e-6)
    assert found.sizes["error"].iloc[0] > 0.2
    # Six turned adapters of rank 2 have no common bases of rank 2; two clusters of three neither.
    assert (found.sizes["null_error"] > 0.3).all()
    bases, cores = 2 * (D_IN + D_OUT), 4
    assert found.sizes["numbers"].tolist() == [bases + 6 * cores, 2 * bases + 6 * cores]
    assert found.sizes["separate_bytes"].tolist() == [2 * 6 * bases] * 2
    assert found.sizes["each"].tolist() == [2 * cores] * 2
    assert found.sizes["operations"].tolist() == [bases + cores] * 2
    assert found.sizes["separate_operations"].tolist() == [bases] * 2


def test_clusters_of_adapters_with_different_modules_use_the_common_ones() -> None:
    both, one = adapter(0), adapter(1, modules=("layers.0.q_proj",))
    found = ask.clustered_diagonalization([both, one], 3, (1,), draws=0)
    assert found.settings["modules"] == 1
    assert found.sizes["null_error"].isna().all()
    with pytest.raises(AdapterError, match="no module in common"):
        ask.clustered_diagonalization([one, adapter(2, modules=("other",))], 3, (1,))


def test_the_mean_explains_twins_and_not_strangers() -> None:
    twins = [adapter(0) for _ in range(4)]
    named = [Adapter({m: t.source(m) for m in t}, name=str(i)) for i, t in enumerate(twins)]
    assert ask.mean_adapter_baseline(named, RANK).frame["by_mean"].min() == pytest.approx(1)
    strangers = ask.mean_adapter_baseline([adapter(seed) for seed in range(5)], RANK).frame
    assert strangers["by_mean"].max() < 0.2


@pytest.fixture(scope="module")
def results() -> list[Result]:
    runs = list(sample_adapters())[:3]
    shapes = {m: runs[0][m].shape for m in runs[0]}
    base = {f"{m}.weight": draw(*shape, seed=1).float() for m, shape in shapes.items()}
    general = {m: torch.eye(shape[1]) for m, shape in shapes.items()}
    gradients = {m: draw(*shape, seed=2) for m, shape in shapes.items()}
    return [
        ask.null_space_energy(runs[0], general),
        ask.base_alignment(runs[0], base),
        ask.initialization_statistics(runs[0]),
        ask.allocate_rank(runs[0], 40),
        ask.chain_coverage(runs),
        ask.factor_movement(runs),
        ask.merge_compensation(runs),
        ask.crowding(runs, draws=20),
        ask.projection_terms(runs[0]),
        ask.direction_worth(runs[0], gradients),
        ask.gradient_alignment(runs[0], gradients),
        ask.intruder_scaling(runs[0], base, (0.0, 1.0)),
        ask.clustered_diagonalization(runs, 4, (1,)),
        ask.mean_adapter_baseline(runs),
    ]


def test_every_result_is_summed_up_and_comes_back(results: list[Result], tmp_path: Path) -> None:
    for number, result in enumerate(results):
        assert len(result.summary())
        assert len(repr(result)) < 300
        for suffix in ("json", "parquet"):
            path = tmp_path / f"{number}.{suffix}"
            getattr(result, f"to_{suffix}")(path)
            again = read_result(path)
            assert type(again) is type(result)
            pd.testing.assert_frame_equal(again.frame, result.frame)


def test_the_noise_edge_is_a_share() -> None:
    runs = [Adapter.from_factors({"q": (torch.eye(4), torch.eye(4) * (1 + seed))}, name=str(seed)) for seed in range(3)]
    assert ask.mean_adapter_baseline(runs, 4).frame["noise_edge"].tolist() == [1.0] * 3
