"""Neighbours by random features against all exact similarities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from asym_analysis.adapters import Adapter, AdapterSet
from asym_analysis.alignment.neighbours import cluster, index_adapters, nearest
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.random_features import standard_error
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
    monkeypatch.setattr("asym_analysis.alignment.neighbours.EXHAUSTIVE", 10)
    graph = index_adapters(runs, features=1024)
    assert "HNSW" in type(graph.graph).__name__
    hits = [
        len(set(nearest(runs[i], graph, 5).frame.place) & set(nearest(runs[i], complete, 5).frame.place)) / 5
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
    with pytest.raises(ValueError, match="made by B, not by A"):
        nearest(runs[0], index, by="A")
    with pytest.raises(ValueError, match=r"least is 0\.1"):
        cluster(index)
    with pytest.raises(AdapterError, match="shares no module"):
        nearest(Adapter.from_factors({"v": (torch.eye(1, 3), torch.eye(3, 1))}), index)
