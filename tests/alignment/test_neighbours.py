"""Neighbours by random features against all exact similarities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.adapters.save import save_adapter
from asym_analysis.alignment.adapter_index import index_adapters
from asym_analysis.alignment.neighbours import cluster, nearest
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.random_features import standard_error
from asym_analysis.alignment.stored_index import load_index, save_index
from asym_analysis.errors import AdapterError
from asym_analysis.results import read_result

pytest.importorskip("faiss")


def collection(count: int, tasks: int = 8, *, size: int = 96, rank: int = 4, seed: int = 0) -> AdapterSet:
    """B leans to its task with a strength of its own; A is random."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    directions, strength = draw(tasks, 3, size, rank), 0.9 + torch.rand(count, generator=generator)
    made = [
        Adapter.from_factors(
            {
                f"layer.{m}.q": (draw(rank, 64), strength[i] * directions[i % tasks, m] + draw(size, rank))
                for m in range(3)
            },
            name=f"run {i}",
        )
        for i in range(count)
    ]
    return AdapterSet(made, {"task": [i % tasks for i in range(count)]})


@pytest.mark.parametrize("by", ["A", "B", "update"])
def test_the_estimates_have_their_stated_error(by: str) -> None:
    runs = collection(80)
    index = index_adapters(runs, by=by, features=2048, seed=3)
    measure, factor = ("cosine", "update") if by == "update" else ("overlap", by)
    exact = compare_subspaces(runs, measure=measure, factors=(factor,)).matrix(factor)
    upper = np.triu_indices(len(runs), 1)
    error = (index.vectors @ index.vectors.T - exact)[upper]
    stated = standard_error(2048)
    assert abs(error.mean()) < stated / 4
    assert error.std() == pytest.approx(stated, rel=0.2)
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("by", ["A", "B", "update"])
def test_the_nearest_are_those_of_all_exact_similarities(by: str) -> None:
    runs = collection(100)
    index = index_adapters(runs, by=by)
    measure, factor = ("cosine", "update") if by == "update" else ("overlap", by)
    exact = compare_subspaces(runs, measure=measure, factors=(factor,)).matrix(factor)
    found = []
    for place in range(0, 100, 10):
        frame = nearest(runs[place], index, 6).frame
        assert frame.adapter[0] == f"run {place}"
        assert frame.similarity[0] == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(frame.similarity[1:], exact[place, frame.place[1:]], atol=1e-5)
        assert (np.diff(frame.similarity) <= 1e-7).all()
        # Unrelated A, and updates of unrelated A, differ by less than the error of the features; B of a task do not.
        found.append(len(set(np.argsort(-exact[place])[:6]) & set(frame.place)) / 6)
    assert np.mean(found) > (0.95 if by == "B" else 0.3)


def test_a_large_index_answers_like_a_complete_search(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = collection(120)
    complete = index_adapters(runs, features=1024)
    monkeypatch.setattr("asym_analysis.alignment.adapter_index.EXHAUSTIVE", 10)
    cells = index_adapters(runs, features=1024)
    assert "IVF" in type(cells.searcher).__name__
    hits = [
        len(set(nearest(runs[i], cells, 5).frame.place) & set(nearest(runs[i], complete, 5).frame.place)) / 5
        for i in range(0, 120, 12)
    ]
    assert np.mean(hits) > 0.95


def test_clusters_are_the_tasks(tmp_path) -> None:
    runs = collection(64, tasks=4)
    lone = Adapter.from_factors({f"layer.{m}.q": (torch.randn(4, 64), torch.randn(96, 4)) for m in range(3)}, name="z")
    groups = cluster(AdapterSet([*runs, lone]), least=0.2)
    labels = groups.frame.cluster.to_numpy()[:64]
    for task in range(4):
        assert len(set(labels[task::4])) == 1
    assert len(set(labels)) == 4
    assert groups.frame.cluster.iloc[-1] == -1
    assert groups.summary()["size"].tolist() == [16] * 4
    groups.to_parquet(tmp_path / "groups.parquet")
    assert read_result(tmp_path / "groups.parquet").frame.equals(groups.frame)


def test_missing_modules_ranks_and_executors() -> None:
    runs = collection(12)
    part = Adapter.from_factors({"layer.0.q": (runs[3]["layer.0.q"].A, runs[3]["layer.0.q"].B)}, name="part")
    found = nearest(part, runs, 2).frame
    assert found.adapter[0] == "run 3"
    assert found.similarity[0] == pytest.approx(1, abs=1e-5)
    with ThreadPoolExecutor(2) as executor:
        there = index_adapters(runs, features=256, executor=executor)
    np.testing.assert_array_equal(there.vectors, index_adapters(runs, features=256).vectors)
    flipped = Adapter.from_factors({m: (u.A, u.B) for m, u in runs[2].items()}, scaling=-1.0, name="flipped")
    assert nearest(flipped, runs, 12, by="update").frame.set_index("adapter").loc["run 2", "similarity"] < -0.999


def test_what_cannot_be_asked_is_refused() -> None:
    runs = collection(4)
    with pytest.raises(ValueError, match="by is 'C'"):
        index_adapters(runs, by="C")
    with pytest.raises(ValueError, match="features is 2"):
        index_adapters(runs, features=2)
    index = index_adapters(runs, features=128)
    with pytest.raises(ValueError, match="made with by B, not A"):
        nearest(runs[0], index, by="A")
    with pytest.raises(ValueError, match=r"least is 0\.1"):
        cluster(index, least=0.1)
    with pytest.raises(AdapterError, match="shares no module"):
        nearest(Adapter.from_factors({"v": (torch.eye(1, 3), torch.eye(3, 1))}), index)


@pytest.mark.parametrize("by", ["A", "B", "update"])
def test_unrelated_adapters_have_no_neighbour_closer_than_chance(by: str) -> None:
    """Of 40 questions among unrelated adapters, about .4 are to find a neighbour with p < .01, and 2 with p < .05."""
    generator = torch.Generator().manual_seed(9)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    strangers = [
        Adapter.from_factors({f"layer.{m}.q": (draw(4, 64), draw(96, 4)) for m in range(3)}, name=f"s{i}")
        for i in range(160)
    ]
    index = index_adapters(strangers[40:], by=by)
    frames = [nearest(stranger, index, 1) for stranger in strangers[:40]]
    p_values = np.array([one.frame.p_value[0] for one in frames])
    assert (p_values < 0.01).sum() <= 3
    assert (p_values < 0.05).sum() <= 7
    assert np.median(p_values) > 0.25
    assert sum(one.summary().closer_than_chance[0] for one in frames) <= 3
    related = nearest(strangers[50], index, 3)
    assert related.summary().closer_than_chance[0] == 1
    assert (cluster(index).frame.cluster == -1).all()


@pytest.mark.parametrize("by", ["A", "B", "update"])
@pytest.mark.parametrize("width", [12, 64])
def test_unrelated_adapters_of_a_small_width_are_not_grouped(by: str, width: int) -> None:
    """Eight collections of 120: at .01 each, the chance of two that are linked anywhere is below .003."""
    linked = 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731,B023
        runs = [Adapter.from_factors({"q": (draw(4, width), draw(width, 4))}, name=f"{i}") for i in range(120)]
        linked += int((cluster(runs, by=by, features=1024).frame.cluster != -1).any())
    assert linked <= 1


@pytest.mark.parametrize("by", ["A", "B", "update"])
@pytest.mark.parametrize("seed", [0, 1])
def test_order_gauge_and_scale_change_nothing(by: str, seed: int) -> None:
    runs = collection(40, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)

    def changed(adapter: Adapter) -> Adapter:
        """B G^-1, G A, and a scale of its own."""
        factors = {}
        for module, update in adapter.items():
            turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
            gauge = turn * (0.5 + torch.rand(4, generator=generator))
            factors[module] = (gauge @ update.A, update.B @ torch.linalg.inv(gauge))
        return Adapter.from_factors(factors, scaling=3.0, name=adapter.name)

    order = torch.randperm(40, generator=generator).tolist()
    other = AdapterSet([changed(runs[place]) for place in order])
    one, two = index_adapters(runs, by=by), index_adapters(other, by=by)
    np.testing.assert_allclose(one.vectors[order], two.vectors, atol=2e-5)
    here, there = nearest(runs[5], one, 40).frame, nearest(other[order.index(5)], two, 40).frame
    there = there.set_index("adapter").loc[here.adapter]
    for column in ("similarity", "estimate", "p_value", "chance"):
        np.testing.assert_allclose(here[column], there[column], atol=1e-3)
    groups = [cluster(index).frame.set_index("adapter") for index in (one, two)]
    partitions = [{frozenset(names) for _, names in frame.groupby("cluster").groups.items()} for frame in groups]
    assert partitions[0] == partitions[1]


@pytest.mark.parametrize("by", ["A", "B", "update"])
@settings(max_examples=6)
@given(condition=st.floats(0, 3), size=st.sampled_from([1e-12, 1.0, 1e12]), seed=st.integers(0, 10**6))
def test_an_ill_conditioned_gauge_changes_nothing(by: str, condition: float, size: float, seed: int) -> None:
    """(A, B) and (G A, B G^-1) are one update, whatever G is; here with condition numbers up to 1,000."""
    runs = collection(12, tasks=3)
    draw = np.random.default_rng(seed)
    changed = []
    for adapter in runs:
        factors = {}
        for module, update in adapter.items():
            left, right = (np.linalg.qr(draw.normal(size=(4, 4)))[0] for _ in range(2))
            gauge = torch.from_numpy(size * left @ np.diag(np.logspace(0, -condition, 4)) @ right)
            A, B = gauge @ update.A.double(), update.B.double() @ torch.linalg.inv(gauge)
            factors[module] = (A.float(), B.float())
        changed.append(Adapter.from_factors(factors, name=adapter.name))
    one, two = (index_adapters(collected, by=by, features=256) for collected in (runs, changed))
    # Rounding to float32 moves a subspace by the condition number times 6e-8.
    np.testing.assert_allclose(one.vectors, two.vectors, atol=2e-4)
    here, there = nearest(runs[5], one, 12).frame, nearest(changed[5], two, 12).frame
    there = there.set_index("adapter").loc[here.adapter]
    for column in ("similarity", "p_value"):
        np.testing.assert_allclose(here[column], there[column], atol=5e-3)
    assert cluster(one, least=0.4).frame.cluster.equals(cluster(two, least=0.4).frame.cluster)


def test_a_zero_factor_has_no_similarity() -> None:
    runs = collection(12)
    zero = Adapter.from_factors({m: (torch.zeros_like(u.A), u.B) for m, u in runs[0].items()}, name="zero")
    for by in ("A", "update"):
        found = nearest(zero, runs, 3, by=by)
        assert found.frame[["similarity", "p_value"]].isna().all(axis=None)
        assert found.summary().closer_than_chance[0] == 0
        among = nearest(runs[3], AdapterSet([*runs, zero]), 13, by=by).frame
        assert among.adapter.iloc[-1] == "zero"
        assert np.isnan(among.similarity.iloc[-1])
        assert cluster(AdapterSet([*runs, zero]), by=by).frame.cluster.iloc[-1] == -1


def test_equal_adapters_are_given_in_the_order_of_the_collection() -> None:
    runs = collection(6)
    copies = [Adapter.from_factors({m: (u.A, u.B) for m, u in runs[0].items()}, name=f"copy {i}") for i in range(5)]
    found = nearest(runs[0], AdapterSet([*copies[:3], *runs, *copies[3:]]), 6).frame
    assert found.place.tolist() == [0, 1, 2, 3, 9, 10]
    np.testing.assert_allclose(found.similarity, 1, atol=1e-5)


def test_an_index_grows_as_if_it_had_been_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = collection(60)
    whole = index_adapters(runs, features=512)
    grown = index_adapters(list(runs)[:20], features=512).add(list(runs)[20:50]).add(list(runs)[50:])
    np.testing.assert_array_equal(grown.vectors, whole.vectors)
    np.testing.assert_array_equal(grown.levels, whole.levels)
    assert nearest(runs[55], grown, 5).frame.equals(nearest(runs[55], whole, 5).frame)
    monkeypatch.setattr("asym_analysis.alignment.adapter_index.EXHAUSTIVE", 10)
    first = index_adapters(list(runs)[:50], features=512)
    assert first.searcher.ntotal == 50
    larger = first.add(list(runs)[50:])
    assert (first.searcher.ntotal, larger.searcher.ntotal, len(larger)) == (50, 60, 60)
    assert nearest(runs[55], larger, 1).frame.adapter[0] == "run 55"
    with pytest.raises(AdapterError, match="holds run 3 already"):
        whole.add(runs[3])
    strange = Adapter.from_factors({"other": (torch.eye(1, 3), torch.eye(3, 1))}, name="strange")
    with pytest.raises(AdapterError, match="does not know the module other"):
        whole.add(strange)


def test_a_stored_index_answers_as_before_and_is_refused_elsewhere(tmp_path: Path) -> None:
    runs = collection(8)
    folders = []
    for run in runs:
        save_adapter(run, tmp_path / run.name)
        folders.append(tmp_path / run.name)
    index = index_adapters(folders, features=256, seed=2)
    save_index(index, tmp_path / "index")
    again = load_index(tmp_path / "index", by="B", features=256, seed=2)
    assert nearest(runs[3], again, 4).frame.equals(nearest(runs[3], index, 4).frame)
    assert cluster(again).frame.equals(cluster(index).frame)
    assert again.add(runs[0].replaced(name="new")).names[-1] == "new"
    for asked, message in (({"by": "A"}, "by B, not A"), ({"features": 64}, "256"), ({"seed": 0}, "seed 2, not 0")):
        with pytest.raises(ValueError, match=message):
            load_index(tmp_path / "index", **asked)
    with pytest.raises(ValueError, match="seed 2, not 0"):
        nearest(runs[3], again, seed=0)
    with pytest.raises(AdapterError, match="other adapters"):
        load_index(tmp_path / "index", adapters=runs[:3])
    save_index(index_adapters(runs, features=64), tmp_path / "memory")
    with pytest.raises(AdapterError, match="indexed from memory"):
        nearest(runs[0], load_index(tmp_path / "memory"))
    assert nearest(runs[0], load_index(tmp_path / "memory", adapters=runs)).frame.adapter[0] == "run 0"
    weights = next((tmp_path / "run 3").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(AdapterError, match="has changed since it was indexed"):
        nearest(runs[3], load_index(tmp_path / "index"), 1)
    np.save(tmp_path / "index" / "vectors.npy", index.vectors + 1)
    with pytest.raises(AdapterError, match="damaged"):
        load_index(tmp_path / "index")
    with pytest.raises(AdapterError, match="holds no index"):
        load_index(tmp_path / "nowhere")


def test_a_dask_cluster_of_two_processes_makes_the_same_index(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    runs = collection(40)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, local_directory=str(tmp_path)
        ) as workers,
        distributed.Client(workers) as client,
    ):
        there = index_adapters(runs, features=256, executor=client.get_executor())
    np.testing.assert_array_equal(there.vectors, index_adapters(runs, features=256).vectors)


def test_one_factor_in_all_modules_is_one_draw() -> None:
    """Unrelated adapters with a tied A: the nearest of 60 was told p = 3e-34, and 17 of 60 stood in clusters."""
    generator = torch.Generator().manual_seed(0)

    def tied(name: str) -> Adapter:
        A = torch.randn(4, 64, generator=generator)
        return Adapter.from_factors(
            {f"l{i}": (A, torch.randn(48, 4, generator=generator)) for i in range(24)}, name=name
        )

    runs = [tied(str(i)) for i in range(60)]
    assert nearest(tied("new"), runs, k=3, by="A").frame.p_value.min() > 0.01
    assert (cluster(runs, by="A").frame.cluster == -1).all()
    copy = Adapter.from_factors({m: (runs[7][m].A, runs[7][m].B) for m in runs[7]}, name="copy")
    assert nearest(copy, runs, k=1, by="A").frame.p_value[0] == 1e-6  # the least that is told


def test_few_dimensions_tell_of_no_small_p_value() -> None:
    """A plane and six dimensions of ten: .001 was told of .0024 of unrelated pairs, .0001 of .0004."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda rank: (torch.randn(rank, 10, generator=generator), torch.randn(30, rank, generator=generator))  # noqa: E731
    runs = [Adapter.from_factors({"q": draw(6)}, name=str(i)) for i in range(5)]
    inside = Adapter.from_factors({"q": (runs[3]["q"].A[:2], draw(2)[1])}, name="inside")
    row = nearest(inside, runs, k=1, by="A").frame.iloc[0]
    assert (row.adapter, row.similarity) == ("3", pytest.approx(1, abs=1e-5))
    assert row.p_value == pytest.approx(1 - 0.99**5)
