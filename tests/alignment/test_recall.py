"""The recall that a sample shows, against all exact similarities."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from asym_analysis.adapters import AdapterSet
from asym_analysis.alignment.adapter_index import index_adapters
from asym_analysis.alignment.neighbours import nearest
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.alignment.recall import _interval, neighbour_recall
from asym_analysis.errors import AdapterError
from asym_analysis.results import read_result
from tests.alignment.test_neighbours import collection

pytest.importorskip("faiss")


@pytest.mark.parametrize("by", ["B", "update"])
def test_it_counts_the_exact_neighbours_that_are_given(by: str) -> None:
    runs = collection(60)
    index = index_adapters(runs, by=by, features=64)  # so few that neighbours which are no kin are missed
    measure, factor = ("cosine", "update") if by == "update" else ("overlap", by)
    exact = compare_subspaces(runs, measure=measure, factors=(factor,)).matrix(factor)
    np.fill_diagonal(exact, -2)
    shares = []
    for place in range(60):
        given = nearest(runs[place], index, 13).frame.place
        shares.append(np.isin(np.argsort(-exact[place])[:12], given[given != place][:12]).mean())
    measured = neighbour_recall(index, 12, queries=60)
    assert sorted(measured.frame.found) == pytest.approx(sorted(shares))
    row = measured.summary().iloc[0]
    assert row.recall == pytest.approx(np.mean(shares))
    assert 0.3 < row.recall < 0.95
    assert row.low < row.recall < row.high


def test_the_interval_of_a_sample_holds_the_recall_of_the_whole_collection() -> None:
    index = index_adapters(collection(80), features=64)
    whole = neighbour_recall(index, 12, queries=80).frame.found.to_numpy()
    rng = np.random.default_rng(0)
    held = [low <= whole.mean() <= high for low, high in (_interval(rng.choice(whole, 15), 12) for _ in range(300))]
    assert np.mean(held) >= 0.9


def test_copies_are_found_whichever_is_given() -> None:
    runs = collection(12)
    copies = AdapterSet([runs[0]] * 12 + list(runs))
    assert neighbour_recall(copies, 4, features=512, queries=24).summary().recall[0] > 0.9
    row = neighbour_recall(AdapterSet([runs[0]] * 12), 4, features=512).summary().iloc[0]
    assert row.recall == 1
    assert row.low == pytest.approx(stats.beta.ppf(0.025, 48, 1))


def test_kin_count_apart_and_a_result_comes_back(tmp_path) -> None:
    found = neighbour_recall(collection(64), 5, features=1024, queries=10)
    row = found.summary().iloc[0]
    assert row.closer_than_chance > 20
    assert row.recall_of_these > 0.95
    found.to_json(tmp_path / "recall.json")
    assert read_result(tmp_path / "recall.json").summary().equals(found.summary())


def test_a_collection_without_so_many_neighbours_is_refused() -> None:
    with pytest.raises(AdapterError, match="it takes more than 10"):
        neighbour_recall(collection(10))
