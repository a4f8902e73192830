"""The right answers for adapters at the edges: sizes far from 1, repeated directions, full rank, copies of one file."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter
from asym_analysis import questions as ask
from asym_analysis.errors import AdapterError

D_IN, D_OUT, RANK, MODULE = 24, 16, 3, "layers.0.q_proj"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(A: Tensor, B: Tensor, name: str = "run") -> Adapter:
    return Adapter.from_factors({MODULE: (A, B)}, name=name)


def plain(seed: int = 3, rank: int = RANK, size: float = 1.0) -> Adapter:
    return of(draw(rank, D_IN, seed=seed), size * draw(D_OUT, rank, seed=99 + seed), f"run {seed}")


BASE = {f"{MODULE}.weight": draw(D_OUT, D_IN, seed=5)}
GRADIENT = {MODULE: draw(D_OUT, D_IN, seed=6)}
MOMENT = {MODULE: torch.diag(torch.linspace(2, 0.1, D_IN, dtype=torch.float64))}
START = of(draw(RANK, D_IN, seed=8), torch.zeros(D_OUT, RANK, dtype=torch.float64))
ONE = {
    "null-space": lambda a: ask.null_space_energy(a, MOMENT, base=BASE),
    "base": lambda a: ask.base_alignment(a, BASE, k=4),
    "initialization": lambda a: ask.initialization_statistics(a, START, moments=MOMENT),
    "ranks": lambda a: ask.allocate_rank(a, 2, moments=MOMENT),
    "projections": lambda a: ask.projection_terms(a, BASE),
    "worth": lambda a: ask.direction_worth(a, GRADIENT),
    "gradient": lambda a: ask.gradient_alignment(a, GRADIENT),
}
MANY = {
    "chain": ask.chain_coverage,
    "movement": ask.factor_movement,
    "merge": ask.merge_compensation,
    "crowding": lambda runs: ask.crowding(runs, draws=20),
    "clusters": lambda runs: ask.clustered_diagonalization(runs, RANK, (1,), draws=0),
    "mean": lambda runs: ask.mean_adapter_baseline(runs, RANK),
    "experts": lambda runs: ask.expert_sharing(runs, (RANK,), draws=5),
}
# How a column grows with B: all others are free of its size.
POWERS = {
    "response": 1, "response_null": 1, "amplification": 1, "random_amplification": 1, "relative_norm": 1,
    "through_initial": 1, "through_movement": 1, "rate_of_A": 2, "rate_ratio": -2, "update_norm": 1,
    "singular_value": 1, "effect": 1,
}  # fmt: skip


def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.select_dtypes("number").astype(float)


@pytest.mark.parametrize("size", [1e-15, 1e15])
@pytest.mark.parametrize("question", ONE)
def test_the_size_of_an_update_scales_what_it_should_and_nothing_else(question: str, size: float) -> None:
    expected, found = (numbers(ONE[question](plain(size=s)).frame) for s in (1.0, size))
    powers = POWERS | ({"null_std": 1} if question == "worth" else {})
    for column in expected:
        scaled = expected[column] * size ** powers.get(column, 0)
        np.testing.assert_allclose(found[column], scaled, rtol=1e-6, err_msg=column)


@pytest.mark.parametrize("size", [1e-15, 1e15])
@pytest.mark.parametrize("question", MANY)
def test_the_size_of_all_updates_changes_no_relation_between_them(question: str, size: float) -> None:
    expected, found = (
        numbers(MANY[question]([plain(seed, size=s) for seed in (1, 11, 21)]).frame) for s in (1.0, size)
    )
    for column in expected:
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-6, atol=1e-9, err_msg=column)


def test_repeated_directions_count_once() -> None:
    """Rank 3 of which one direction is used says what the same update of rank 1 says."""
    A, B = draw(1, D_IN, seed=1), draw(D_OUT, 1, seed=2)
    once, thrice = of(A, 3 * B), of(A.repeat(3, 1), B.repeat(1, 3))
    same = {
        "null-space": ["weak_share", "weak_null_std", "weak_p_value", "update_weak_share", "energy", "update_energy",
                       "response"],
        "base": ["A_top", "A_null_mean", "B_top", "B_bottom", "spectral_share", "top_share", "amplification"],
        "worth": ["singular_value", "effect", "z"],
    }  # fmt: skip
    for question, columns in same.items():
        expected, found = (ONE[question](a).frame[columns].astype(float) for a in (once, thrice))
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=question)
    found = ask.gradient_alignment(thrice, GRADIENT, k=2).frame["overlap"]
    assert found.to_numpy() == pytest.approx(ask.gradient_alignment(once, GRADIENT, k=2).frame["overlap"].to_numpy())
    assert ask.allocate_rank(thrice, 1).summary()["energy_kept"].item() == pytest.approx(1)
    assert ask.base_alignment(thrice, BASE).frame["A_condition"].item() == np.inf
    assert ask.initialization_statistics(thrice, thrice).frame["B_cosine"].item() == pytest.approx(1)


def test_a_factor_that_fills_the_space_is_at_chance_everywhere() -> None:
    full = plain(rank=30)
    row = ask.null_space_energy(full, MOMENT, weak=0.25).frame.iloc[0]
    assert row[["weak_share", "weak_null_mean"]].tolist() == pytest.approx([0.25, 0.25])
    assert row[["weak_null_std", "weak_p_value"]].tolist() == pytest.approx([0, 1])
    row = ask.base_alignment(full, BASE, k=4).frame.iloc[0]
    shares = row[["A_top", "A_bottom", "A_null_mean", "B_top", "B_bottom", "B_null_mean"]]
    assert shares.tolist() == pytest.approx([1] * 6)
    assert ask.gradient_alignment(full, GRADIENT).frame["p_value"].tolist() == pytest.approx([1, 1])
    chain = ask.chain_coverage([full, plain(seed=5)]).frame.iloc[1]
    assert chain[["union_rank", "most_rank", "inside", "inside_p_value"]].tolist() == pytest.approx([24, 24, 1, 1])


def test_copies_of_one_file_have_everything_in_common() -> None:
    copies = [plain().replaced(name=str(i)) for i in range(3)]
    chain = ask.chain_coverage(copies).frame
    assert chain["union_rank"].tolist() == [RANK] * 3
    assert chain["inside"].tolist()[1:] == pytest.approx([1, 1])
    movement = ask.factor_movement(copies).frame
    assert movement[["A_moved", "B_moved", "A_turn", "B_turn"]].to_numpy() == pytest.approx(0)
    assert movement["A_share"].isna().all()
    merge = ask.merge_compensation(copies).frame.iloc[0]
    assert merge[["error", "error_optimum", "scale", "gap"]].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)
    torch.testing.assert_close(ask.best_merge(copies)[MODULE].delta(), plain()[MODULE].delta())
    crowding = ask.crowding(copies, draws=20).frame
    assert crowding["use"].tolist()[:RANK] == pytest.approx([3] * RANK)
    assert crowding["crowded"].tolist()[:RANK] == [True] * RANK
    clusters = ask.clustered_diagonalization(copies, RANK, (1,), draws=0).sizes
    assert clusters["error"].item() == pytest.approx(0, abs=1e-9)
    mean = ask.mean_adapter_baseline(copies, RANK).frame
    assert mean[["by_mean", "by_mean_space", "by_shared_space", "top_eigenvalue"]].to_numpy() == pytest.approx(1)
    finding = ask.examine(copies[0], siblings=copies[1:]).frame["finding"].item()
    assert finding == "it is a copy of 1, 2: every factor is the same"


def test_what_is_asked_for_beyond_what_there_is() -> None:
    everything = ask.allocate_rank(plain(), 100)
    assert everything.rank_pattern == {MODULE: RANK}
    assert everything.summary()[["budget", "energy_kept"]].to_numpy().tolist() == [[RANK, 1.0]]
    wide = ask.clustered_diagonalization([plain(1), plain(2)], 100, (1,), draws=0).sizes
    bases, cores = D_OUT * (D_OUT + D_IN), D_OUT * D_OUT  # no basis has more columns than the narrower side
    assert wide[["numbers", "operations"]].to_numpy().tolist() == [[bases + 2 * cores, bases + cores]]
    shared = ask.mean_adapter_baseline([plain(seed) for seed in (1, 2, 3)], 100).frame
    assert shared["random_share"].tolist() == pytest.approx([2 * RANK / D_IN] * 3)
    assert ask.direction_worth(plain(), GRADIENT).kept(100) == {MODULE: [1.0] * RANK}
    last = ask.base_alignment(plain(), BASE, k=100).frame.iloc[0]
    assert last["k"] == D_OUT
    assert last["B_top"] == pytest.approx(1)


def test_adapters_of_other_ranks_and_modules_are_merged_where_they_meet() -> None:
    other = Adapter.from_factors(
        {MODULE: (draw(5, D_IN, seed=4), draw(D_OUT, 5, seed=7)), "own": (draw(1, 9), draw(7, 1))}, name="other"
    )
    first = plain()
    merged = ask.merge_adapters([first, other], [2.0, -1.0])
    torch.testing.assert_close(merged[MODULE].delta(), 2 * first[MODULE].delta() - other[MODULE].delta())
    torch.testing.assert_close(merged["own"].delta(), -other["own"].delta())
    assert ask.merge_compensation([first, other]).frame["module"].tolist() == [MODULE]


SENTENCES = {
    "symmetric": lambda: ask.null_space_energy(plain(), {MODULE: draw(D_IN, D_IN)}),
    "NaN": lambda: ask.null_space_energy(plain(), {MODULE: torch.full((D_IN, D_IN), torch.nan)}),
    "negative": lambda: ask.null_space_energy(plain(), {MODULE: -torch.eye(D_IN)}),
    "width 24": lambda: ask.allocate_rank(plain(), 2, moments={MODULE: torch.eye(20)}),
    "base model": lambda: ask.base_alignment(plain(), {f"{MODULE}.weight": draw(9, 9)}),
    "base weight is zero": lambda: ask.base_alignment(plain(), {f"{MODULE}.weight": torch.zeros(D_OUT, D_IN)}),
    "gradient is zero": lambda: ask.gradient_alignment(plain(), {MODULE: torch.zeros(D_OUT, D_IN)}),
    "two or more of the adapters": lambda: ask.merge_compensation([plain()]),
    "two or more of the blocks": lambda: ask.chain_coverage(
        [plain(), Adapter.from_factors({"z": (draw(1, 4), draw(3, 1))}, name="z")]
    ),
    "one rank in two checkpoints": lambda: ask.factor_movement([plain(), plain(rank=5)]),
    "at least one adapter": lambda: ask.merge_adapters([]),
}
VALUES = {
    "weights is nan": lambda: ask.merge_compensation([plain(1), plain(2)], [float("nan"), 1.0]),
    "weights is inf": lambda: ask.reweight_directions(plain(), {MODULE: [float("inf")]}),
    "clusters is empty": lambda: ask.clustered_diagonalization([plain(1), plain(2)], 2, ()),
    "ranks is empty": lambda: ask.expert_sharing([plain(1), plain(2)], ()),
    "scales is empty": lambda: ask.intruder_scaling(plain(), BASE, ()),
    "k is 0": lambda: ask.base_alignment(plain(), BASE, k=0),
}


@pytest.mark.parametrize("said", SENTENCES)
def test_what_has_no_answer_is_said_in_a_sentence(said: str) -> None:
    with pytest.raises(AdapterError, match=said) as refused:
        SENTENCES[said]()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("said", VALUES)
def test_a_wrong_number_is_named(said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VALUES[said]()


def test_no_p_value_is_below_what_is_checked_of_its_distribution() -> None:
    """A row space in the first right singular vectors of a weight 400 wide: chance is below a millionth, not 1e-90."""
    base = draw(300, 400, seed=1)
    _, _, right = torch.linalg.svd(base, full_matrices=False)
    aligned = Adapter.from_factors({MODULE: (right[:8], draw(300, 8, seed=2))}, name="aligned")
    frame = ask.base_alignment(aligned, {f"{MODULE}.weight": base}, k=8).frame
    assert frame["A_top"][0] == pytest.approx(1)
    assert frame["A_top_p_value"][0] == 1e-6
