"""Every pair of the real families against scipy, and against what their list says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from asym_analysis.adapters.load import load_adapters
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.pairwise import compare_subspaces

FAMILIES = ("685-bert-base", "gpt2-cattn-r8", "gpt2-sumlora-r8", "ner-roberta-base", "tinyllama-r4-seeds")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_agrees_with_scipy(shared_adapters: Path, family: str) -> None:
    runs = load_adapters(sorted((shared_adapters / family).iterdir()))
    comparison = compare_subspaces(runs)
    held = {(run.name, module): run[module] for run in runs for module in run}
    factors = {
        (*key, factor): np.linalg.qr((update.A.mT if factor == "A" else update.B).double().numpy())[0]
        for key, update in held.items()
        for factor in ("A", "B")
    }
    assert len(comparison.frame) >= 24
    for row in comparison.frame.itertuples():
        if row.rank_i == 0 or row.rank_j == 0:
            assert np.isnan(row.value)
            continue
        one, two = held[row.adapter_i, row.module], held[row.adapter_j, row.module]
        if (row.rank_i, row.rank_j) == (one.rank, two.rank):
            x, y = (factors[name, row.module, row.factor] for name in (row.adapter_i, row.adapter_j))
            assert row.value == pytest.approx((np.cos(subspace_angles(x, y)) ** 2).mean(), abs=1e-6)


def value(comparison: SubspaceComparison, factor: str, first: str, second: str) -> float:
    names = list(comparison.names)
    return float(comparison.matrix(factor)[names.index(first), names.index(second)])


def marked(comparison: SubspaceComparison, first: str, second: str) -> bool:
    pair = sorted((comparison.names.index(first), comparison.names.index(second)))
    return bool(comparison.same_initialization[(comparison.pairs[0] == pair[0]) & (comparison.pairs[1] == pair[1])][0])


def test_seeds_of_one_task_share_B_and_not_A(shared_adapters: Path) -> None:
    comparison = compare_subspaces(load_adapters(sorted((shared_adapters / "tinyllama-r4-seeds").iterdir())))
    summary = comparison.summary().set_index(["factor", "pairs"])
    assert summary.loc[("A", "all"), "value"] == pytest.approx(0.002, abs=0.0005)
    assert 0.19 <= summary.loc[("B", "all"), "value"] <= 0.35
    assert summary.loc[("A", "all"), "significant"] < 0.05
    assert summary.loc[("B", "all"), "significant"] == 1.0
    assert not comparison.same_initialization.any()


def test_shared_starts_are_marked_where_the_list_has_them(shared_adapters: Path) -> None:
    comparison = compare_subspaces(load_adapters(sorted((shared_adapters / "ner-roberta-base").iterdir())))
    assert marked(comparison, "runA_r4_a16_ckpt308", "runA_r4_a16_ckpt924")
    assert not marked(comparison, "runA_r4_a16_ckpt924", "runB_r4_a16_ckpt924")
    assert not marked(comparison, "runA_r4_a16_ckpt924", "runA_r4_a64_ckpt924")
    assert not marked(comparison, "runA_r8_a16_ckpt924", "runB_r8_a16_ckpt924")
    assert 0.04 < value(comparison, "B", "runA_r8_a16_ckpt924", "runB_r8_a16_ckpt924") < 0.09


def test_an_A_that_moved_far_is_no_shared_start(shared_adapters: Path) -> None:
    comparison = compare_subspaces(load_adapters(sorted((shared_adapters / "685-bert-base").iterdir())))
    assert value(comparison, "A", "lora_wikitext2", "qlora_wikitext2") == pytest.approx(0.32, abs=0.08)
    assert not comparison.same_initialization.any()
