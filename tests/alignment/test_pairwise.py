"""compare_subspaces against scipy, one pair at a time."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import subspace_angles

from asym_analysis.adapters import Adapter, AdapterSet, LowRankUpdate, ModuleSource
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.errors import AdapterError
from asym_analysis.results import read_result

COLUMNS = [
    "adapter_i", "adapter_j", "module", "layer", "projection", "factor", "measure", "value", "null_mean", "null_std",
    "p_value", "least_p", "rank_i", "rank_j", "same_initialization",
]  # fmt: skip
MODULES = ("encoder.layer.0.query", "encoder.layer.3.value")


def adapter(
    name: str, rank: int, seed: int, *, dtype: torch.dtype = torch.float64, modules: tuple[str, ...] = MODULES
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    return Adapter.from_factors({m: (draw(rank, 40).to(dtype), draw(30, rank).to(dtype)) for m in modules}, name=name)


def scipy_overlap(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean squared cosine of the row spaces."""
    cosines = np.cos(subspace_angles(x.double().numpy().T, y.double().numpy().T))
    return float((cosines**2).mean())


def assert_agrees(frame: pd.DataFrame, runs: AdapterSet, tolerance: float) -> None:
    by_name = dict(zip(runs.names, runs, strict=True))
    for row in frame.itertuples():
        first, second = by_name[row.adapter_i][row.module], by_name[row.adapter_j][row.module]
        pair = (first.A, second.A) if row.factor == "A" else (first.B.mT, second.B.mT)
        assert row.value == pytest.approx(scipy_overlap(*pair), abs=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_agrees_with_scipy_for_ranks_that_differ(dtype: torch.dtype, tolerance: float) -> None:
    runs = AdapterSet([adapter(f"run {i}", rank, i, dtype=dtype) for i, rank in enumerate((4, 8, 4, 2, 6))])
    comparison = compare_subspaces(runs)
    assert list(comparison.frame.columns) == COLUMNS
    assert len(comparison.frame) == 2 * 2 * 10
    assert_agrees(comparison.frame, runs, tolerance)
    ranks = dict(zip(runs.names, (4, 8, 4, 2, 6), strict=True))
    assert (comparison.frame.rank_i == comparison.frame.adapter_i.map(ranks).astype(int)).all()
    assert (comparison.frame.rank_j == comparison.frame.adapter_j.map(ranks).astype(int)).all()


def test_every_pair_once_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = AdapterSet([adapter(f"run {i}", 3, i) for i in range(11)])
    whole = compare_subspaces(runs)
    monkeypatch.setattr("asym_analysis.alignment.module_pairs.BLOCK_ENTRIES", 1)
    np.testing.assert_allclose(compare_subspaces(runs).values, whole.values, atol=1e-14)
    pairs = set(zip(whole.frame.adapter_i, whole.frame.adapter_j, strict=True))
    assert pairs == {(f"run {i}", f"run {j}") for i in range(11) for j in range(i + 1, 11)}


def test_deficient_and_zero_factors_are_values_in_the_table() -> None:
    base = adapter("base", 4, 0)
    update = base[MODULES[0]]
    deficient = update.A.clone()
    deficient[3] = deficient[0] + deficient[1]
    made = {"deficient": (deficient, update.B), "zero": (update.A, torch.zeros_like(update.B))}
    runs = AdapterSet(
        [Adapter.from_factors({MODULES[0]: f}, name=n) for n, f in made.items()] + [adapter("other", 4, 1)]
    )
    comparison = compare_subspaces(runs)
    frame = comparison.frame.set_index(["adapter_i", "adapter_j", "factor"])
    assert frame.loc[("deficient", "zero", "A"), "rank_i"] == 3
    assert frame.loc[("deficient", "zero", "A"), "value"] == pytest.approx(1.0)
    assert frame.loc[("zero", "other", "B"), "rank_i"] == 0
    assert frame.loc[("zero", "other", "B"), ["value", "null_mean", "null_std", "p_value"]].isna().all()
    assert np.isfinite(frame.loc[("deficient", "other", "B"), "value"])
    assert comparison.summary().value.notna().all()


def test_modules_that_an_adapter_lacks_have_no_row() -> None:
    runs = AdapterSet([adapter("a", 2, 0), adapter("b", 2, 1), adapter("c", 2, 2, modules=MODULES[:1])])
    frame = compare_subspaces(runs).frame
    assert frame.groupby("module", observed=True).size().to_dict() == {MODULES[0]: 6, MODULES[1]: 2}
    assert frame.layer.dtype == "Int64"
    assert set(frame.projection) == {"query", "value"}
    assert_agrees(frame, runs, 1e-12)


def test_pairs_that_share_an_initialization_are_marked() -> None:
    start = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    move = torch.randn(3, 4, 200, generator=torch.Generator().manual_seed(1))
    B = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(2))
    factors = [A / 600**0.5 for A in (start + 0.3 * move[0], start + 0.3 * move[1], move[2])]  # as long as PEFT's
    runs = AdapterSet([Adapter.from_factors({"q": (A, b)}, name=n) for n, A, b in zip("abc", factors, B, strict=True)])
    comparison = compare_subspaces(runs)
    assert comparison.frame.query("factor == 'A'").same_initialization.tolist() == [True, False, False]
    assert {"same initialization", "different initialization"} <= set(comparison.summary().pairs)
    both = compare_subspaces(runs[:2]).summary()
    assert both.pairs.tolist() == ["all", "same initialization"] * 2  # where every pair shares it, too
    assert compare_subspaces(runs[1:]).summary().pairs.tolist() == ["all"] * 2


def test_a_shared_random_B_is_marked_as_well() -> None:
    """The paper's reversed initialization: B random, A from zero."""
    generator = torch.Generator().manual_seed(0)
    start, other = torch.randn(2, 200, 4, generator=generator)
    trained = torch.randn(3, 4, 1, generator=generator) @ torch.randn(1, 120, generator=generator)
    factors = [start, start + 0.2 * torch.randn(200, 4, generator=generator), other]
    made = [Adapter.from_factors({"q": (A, B)}, name=n) for n, A, B in zip("abc", trained, factors, strict=True)]
    assert compare_subspaces(made).same_initialization.tolist() == [True, False, False]


def test_the_summary_separates_tasks_and_reads_the_null() -> None:
    shared = torch.randn(40, 2, generator=torch.Generator().manual_seed(9))
    made = []
    for index in range(6):
        generator = torch.Generator().manual_seed(index)
        B = shared if index < 3 else torch.randn(40, 2, generator=generator)
        made.append(Adapter.from_factors({"q": (torch.randn(2, 60, generator=generator), B)}, name=str(index)))
    runs = AdapterSet(made, {"task": list("aaabbb")})
    summary = compare_subspaces(runs).summary().set_index(["factor", "pairs"])
    assert summary.loc[("B", "same task"), "value"] == pytest.approx((3 * 1 + 3 * 0.05) / 6, abs=0.1)
    assert summary.loc[("B", "same task"), "significant"] >= 0.5
    assert summary.loc[("A", "all"), "null_mean"] == pytest.approx(2 / 60)
    assert summary.loc[("B", "all"), "null_mean"] == pytest.approx(2 / 40)
    assert summary["count"].to_dict()[("A", "same task")] == 6


def test_the_summary_is_what_its_frame_says() -> None:
    """A two-class head of rank 8: B is the whole space. Two adapters have no label."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    made = [
        Adapter.from_factors({f"{i}.q": (draw(8, 64), draw(2, 8)) for i in range(3)}, name=str(k)) for k in range(6)
    ]
    runs = AdapterSet(made, {"task": ["a", None, "b", "a", "b", None]})
    for measure in ("overlap", "martin", "pwcca", "linear_regression"):
        comparison = compare_subspaces(runs, measure=measure)
        frame, task = comparison.frame, dict(zip(runs.names, runs.table.task, strict=True))
        one, other = (frame[side].astype(str).map(task) for side in ("adapter_i", "adapter_j"))
        labelled = one.notna() & other.notna()
        groups = {
            "all": labelled | True,
            "same task": labelled & (one == other),
            "different task": labelled & (one != other),
        }
        for row in comparison.summary().itertuples():
            chosen = frame[groups[row.pairs] & (frame.factor == row.factor)]
            assert row.value == pytest.approx(chosen.value.mean(), rel=1e-6)
            assert row.null_mean == pytest.approx(chosen.null_mean.mean(), rel=1e-6, nan_ok=True)
            assert row.significant == pytest.approx((chosen.p_value < 0.01).mean())
            assert row.count == chosen[["adapter_i", "adapter_j"]].drop_duplicates().shape[0]
            assert comparison.chance(row.factor) == pytest.approx(
                frame[frame.factor == row.factor].null_mean.mean(), rel=1e-6
            )
    overlap = compare_subspaces(runs)
    assert (overlap.frame[overlap.frame.factor == "B"].p_value == 1).all()
    assert overlap.same("task").sum() == 2
    assert overlap.different("task").sum() == 4


def test_an_infinite_distance_makes_an_infinite_mean() -> None:
    made = [
        Adapter.from_factors({"q": (torch.eye(2, 9).roll(shift, 1), torch.randn(7, 2))}, name=str(shift))
        for shift in (0, 1, 4)
    ]
    comparison = compare_subspaces(made, measure="martin", factors=("A",))
    assert np.isinf(comparison.frame.value).any()
    assert np.isinf(comparison.summary().value[0])
    assert np.isinf(comparison.matrix("A")).any()


def test_one_update_in_two_gauges_has_one_rank() -> None:
    """Four live directions of eight; the balanced gauge takes roots, which lift rounding over a tolerance."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    A, B, G = draw(8, 256), draw(256, 8), draw(8, 8)
    B[:, 4:] = 0
    other = Adapter.from_factors({"q": (draw(8, 256), draw(256, 8))}, name="x")
    for measure in ("linear_regression", "pwcca", "angular_procrustes", "linear_cka", "svcca"):
        found = [
            compare_subspaces([other, Adapter.from_factors({"q": f}, name="y")], measure=measure, factors=("right",))
            for f in ((A, B), (G @ A, B @ torch.linalg.inv(G)))
        ]
        np.testing.assert_allclose(found[0].values, found[1].values, atol=2e-5)
        assert found[0].ranks[0, 0, 1] == found[1].ranks[0, 0, 1] <= 4


def test_the_matrix_averages_over_modules() -> None:
    runs = AdapterSet([adapter(n, 3, i) for i, n in enumerate("abcd")])
    comparison = compare_subspaces(runs)
    matrix = comparison.matrix("A")
    assert np.allclose(matrix, matrix.T)
    assert (np.diag(matrix) == 1).all()
    expected = comparison.frame.query("factor == 'A' and adapter_i == 'b' and adapter_j == 'd'").value.mean()
    assert matrix[1, 3] == pytest.approx(expected)
    single = comparison.frame.query("factor == 'B' and adapter_i == 'a' and adapter_j == 'c' and module == @MODULES[1]")
    assert comparison.matrix("B", MODULES[1])[0, 2] == pytest.approx(single.value.item())
    with pytest.raises(ValueError, match="was not compared"):
        comparison.matrix("left")


def test_results_come_back_from_disk_with_their_settings(tmp_path) -> None:
    comparison = compare_subspaces([adapter(n, 3, i) for i, n in enumerate("abc")])
    for file in ("table.json", "table.parquet"):
        getattr(comparison, f"to_{file.split('.')[1]}")(tmp_path / file)
        found = read_result(tmp_path / file)
        frame, settings = found.frame, found.settings
        assert settings["measure"] == "overlap"
        assert list(frame.columns) == COLUMNS
        np.testing.assert_array_equal(frame.value, comparison.frame.value)
    assert "A" in comparison._repr_html_()


def test_executors_give_the_same_table() -> None:
    runs = AdapterSet([adapter(f"run {i}", 3, i) for i in range(5)])
    here = compare_subspaces(runs).frame
    with ThreadPoolExecutor(2) as executor:
        pd.testing.assert_frame_equal(compare_subspaces(runs, executor=executor).frame, here)


def read_random(seed: int) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(seed)
    return LowRankUpdate(torch.randn(3, 40, generator=generator), torch.randn(30, 3, generator=generator))


@pytest.mark.parametrize("portable", [True, False])
def test_processes_read_for_themselves_where_they_can(portable: bool) -> None:
    def source(seed: int) -> ModuleSource:
        read = partial(read_random, seed) if portable else (lambda: read_random(seed))
        return ModuleSource(d_out=30, d_in=40, rank=3, dtype="float32", read=read)

    runs = AdapterSet([Adapter({"layer.1.q": source(i)}, name=f"run {i}") for i in range(3)])
    with ProcessPoolExecutor(1) as executor:
        pd.testing.assert_frame_equal(compare_subspaces(runs, executor=executor).frame, compare_subspaces(runs).frame)


def test_what_cannot_be_compared_is_refused_in_a_sentence() -> None:
    one, two = adapter("one", 2, 0), adapter("two", 2, 1)
    with pytest.raises(AdapterError, match="at least 2 adapters"):
        compare_subspaces([one])
    with pytest.raises(AdapterError, match="share a module name"):
        compare_subspaces([one, adapter("three", 2, 2, modules=("other",))])
    wide = Adapter.from_factors({MODULES[0]: (torch.ones(1, 41), torch.ones(30, 1))}, name="wide")
    with pytest.raises(AdapterError, match="30 x 40 in one and 30 x 41 in wide"):
        compare_subspaces([one, wide])
    # The second module: the run-time type checker looks into the first item of every Mapping that it meets.
    sound, bad = (torch.ones(1, 40), torch.ones(30, 1)), (torch.full((1, 40), torch.nan), torch.ones(30, 1))
    broken = Adapter.from_factors(dict(zip(MODULES, (sound, bad), strict=True)), name="broken")
    with pytest.raises(AdapterError, match=f"broken, module {MODULES[1]}.*NaN"):
        compare_subspaces([one, broken])
    with pytest.raises(ValueError, match="no measure is called 'similarity'"):
        compare_subspaces([one, two], measure="similarity")
    with pytest.raises(ValueError, match="choose among"):
        compare_subspaces([one, two], factors=("C",))


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    draw = torch.Generator().manual_seed(0)
    runs = [
        Adapter.from_factors({"q": (torch.randn(2, 8, generator=draw), torch.randn(6, 2, generator=draw))}, name=name)
        for name in "ab"
    ]
    for device in ("cuda", "gpu"):
        with pytest.raises(ValueError, match=f"device is '{device}', which is not to be had here"):
            compare_subspaces(runs, device=device)


def test_a_measure_near_its_end_still_sees_what_is_shared() -> None:
    """Fubini-Study distances of random subspaces of rank 8 round to pi/2; related ones lie clearly below."""
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(8, 384, generator=draw)
    runs = [
        Adapter.from_factors({"q": (shared + k * torch.randn(8, 384, generator=draw), torch.eye(16, 8))}, name=str(i))
        for i, k in enumerate((0.5, 0.5, 1e6, 1e6))
    ]
    frame = compare_subspaces(runs, measure="fubini_study", factors=("A",)).frame
    assert frame["p_value"].iloc[0] < 0.001
    assert (frame["p_value"].iloc[1:] > 0.01).all()


def test_pairs_without_a_common_module_are_not_counted() -> None:
    runs = [
        adapter(f"{modules[0]}-{seed}", 2, seed, modules=modules) for modules in (("q",), ("v",)) for seed in (1, 2)
    ]
    summary = compare_subspaces(AdapterSet(runs)).summary()
    assert set(summary["count"]) == {2}  # of the six pairs
