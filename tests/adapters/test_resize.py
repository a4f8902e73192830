"""Truncated adapters are the best of their rank, and budgets are spent where they keep most energy."""

from __future__ import annotations

import itertools

import pytest
import torch

from asym_analysis import Adapter, AdapterError, load_adapter


def adapter(seed: int = 0, scaling: float = 1.5) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q": (9, 5, 3), "v": (6, 6, 4), "o": (4, 12, 2)}
    factors = {
        module: (torch.randn(r, d_in, generator=generator) * weight, torch.randn(d_out, r, generator=generator))
        for weight, (module, (d_out, d_in, r)) in enumerate(shapes.items(), start=1)
    }
    return Adapter.from_factors(factors, scaling=scaling, name="toy")


@pytest.mark.parametrize("rank", [1, 2, 3, 50])
def test_truncation_is_the_best_of_its_rank(rank):
    whole = adapter()
    small = whole.truncate(rank=rank)
    for module in whole:
        dense = whole[module].delta()
        U, S, Vh = torch.linalg.svd(dense, full_matrices=False)
        kept = min(rank, whole[module].rank)
        best = U[:, :kept] @ torch.diag(S[:kept]) @ Vh[:kept]
        torch.testing.assert_close(small[module].delta(), best, rtol=1e-4, atol=1e-5)
        assert small[module].rank == small.source(module).rank == kept
    assert small.metadata["changes"] == [f"truncated to rank={rank}"]


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.95, 1.0])
def test_energy_is_kept_by_the_smallest_rank(energy):
    whole = adapter()
    small = whole.truncate(energy=energy)
    for module in whole:
        squares = whole[module].singular_values().double().square()
        share = squares[: small[module].rank].sum() / squares.sum()
        assert share >= energy - 1e-9
        if small[module].rank > 1:
            assert squares[: small[module].rank - 1].sum() / squares.sum() < energy


@pytest.mark.parametrize("budget", [46, 60, 75, 88, 200])
def test_a_budget_is_spent_as_the_search_of_all_ranks_spends_it(budget):
    """Greedy by energy a number; it may leave less than one more direction's worth of the best of all choices."""
    whole = adapter()
    small = whole.truncate(budget=budget)
    cost = {module: whole.source(module).d_in + whole.source(module).d_out for module in whole}
    squares = {module: whole[module].singular_values().double().square() for module in whole}

    def energy(ranks):
        return sum(squares[module][:rank].sum().item() for module, rank in ranks.items())

    spent = {module: small[module].rank for module in small}
    assert sum(cost[module] * rank for module, rank in spent.items()) <= budget
    choices = itertools.product(*(range(1, whole[module].rank + 1) for module in whole))
    allowed = [dict(zip(whole, ranks, strict=True)) for ranks in choices]
    best = max(energy(ranks) for ranks in allowed if sum(cost[m] * r for m, r in ranks.items()) <= budget)
    largest = max(squares[module][1].item() for module in whole)
    assert best - largest <= energy(spent) <= best + 1e-9
    if budget == 200:
        assert spent == {module: whole[module].rank for module in whole}


def test_a_budget_that_is_too_small_is_refused():
    with pytest.raises(AdapterError, match="needs 42 numbers for one direction in each of its 3 modules"):
        adapter().truncate(budget=41)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    "arguments",
    [{}, {"rank": 1, "energy": 0.5}, {"rank": 0}, {"rank": 1.5}, {"energy": 0}, {"energy": 1.1}, {"budget": 0}],
)
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="give"):
        adapter().truncate(**arguments)


def test_balanced_factors_are_the_same_update():
    whole = adapter()
    even = whole.balanced()
    for module in whole:
        update = even[module]
        assert update.scaling == 1.0
        torch.testing.assert_close(update.delta(), whole[module].delta(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(update.A @ update.A.mT, update.B.mT @ update.B, rtol=1e-4, atol=1e-4)


def test_heads_stay_and_the_start_goes(tmp_path):
    start = adapter(1)
    whole = Adapter.from_factors({"q": (torch.ones(2, 8), torch.ones(4, 2))}, initial=start)
    assert whole.truncate(rank=1).initial is None
    state = {
        "q.lora_A.weight": torch.randn(2, 8),
        "q.lora_B.weight": torch.randn(4, 2),
        "head.weight": torch.ones(2, 2),
    }
    small = load_adapter(state, config={"peft_type": "LORA", "init_lora_weights": "gaussian"}).truncate(rank=1)
    assert list(small.extras) == ["head.weight"]
    assert "init_lora_weights" not in small.metadata
    again = load_adapter(small.save(tmp_path / "out"))
    torch.testing.assert_close(again["q"].delta(), small["q"].delta())
    zero = Adapter.from_factors({"q": (torch.ones(2, 8), torch.zeros(4, 2))})
    assert zero.truncate(energy=0.9).ranks == zero.truncate(budget=30).ranks == (1,)


def test_a_budget_goes_where_a_number_keeps_most() -> None:
    wide = torch.zeros(2, 100), torch.zeros(100, 2)
    narrow = torch.zeros(8, 10), torch.zeros(10, 8)
    for index in range(8):
        narrow[0][index, index] = narrow[1][index, index] = 1.0
    for index in range(2):
        wide[0][index, index], wide[1][index, index] = 2.0, 1.0
    # A second direction of the wide module keeps 4 for 200 numbers; seven more of the narrow one keep 7 for 140.
    made = Adapter.from_factors({"wide": wide, "narrow": narrow}).truncate(budget=220 + 200)
    assert {module: made.source(module).rank for module in made} == {"wide": 1, "narrow": 8}
