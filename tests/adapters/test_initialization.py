from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from asym_analysis.adapters import Adapter
from asym_analysis.adapters.factors_from_svd import has_initialization
from asym_analysis.adapters.initialization import marks, same_initialization
from asym_analysis.adapters.initialization_evidence import Evidence, initialization_evidence
from asym_analysis.adapters.random_factors import random_factors
from asym_analysis.adapters.shared_initialization import SharedInitialization, shared_initialization
from asym_analysis.alignment.pairwise import compare_subspaces


def uniform_start(seed: int, rank: int = 8, size: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(rank, size, generator=generator) - 1) / size**0.5


def moved(start: torch.Tensor, share: float, seed: int, directions: int | None = None) -> torch.Tensor:
    """Move a factor by `share` of its length: in every direction, or along a few that all runs have in common."""
    generator = torch.Generator().manual_seed(seed)
    move = torch.randn(start.shape, generator=generator)
    if directions is not None:
        common = torch.randn(directions, start.shape[1], generator=torch.Generator().manual_seed(99))
        move = torch.randn(start.shape[0], directions, generator=generator) @ common
    return start + share * start.norm() * move / move.norm()


def read_peft(path: Path, name: str | None = None) -> Adapter:
    tensors = load_file(path / "adapter_model.safetensors")
    ends = (".lora_A.weight", ".lora_B.weight")
    names = [key.removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])]
    factors = {name: (tensors[name + ends[0]], tensors[name + ends[1]]) for name in names}
    return Adapter.from_factors(factors, name=name or path.name)


@pytest.mark.parametrize("share", [0.0, 0.04, 0.7, 1.5])
@pytest.mark.parametrize("directions", [None, 1, 2])
def test_a_shared_start_is_seen_after_a_large_movement(share: float, directions: int | None) -> None:
    starts = [uniform_start(0), uniform_start(0), uniform_start(1)]
    stack = torch.stack([moved(start, share, seed, directions) for seed, start in enumerate(starts)])
    no = 0 if share < 1 else -1  # a factor that grew so much may have lost its initialization
    found = same_initialization(stack, growth=[1 + share**2] * 3)
    assert found.tolist() == [[1, 1, no], [1, 1, no], [no, no, 1]]
    assert same_initialization(stack).tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]


def test_runs_that_learned_the_same_directions_share_no_start() -> None:
    # Fifty independent starts, each moved five times its length along the same three directions.
    stack = torch.stack([moved(uniform_start(seed, size=128), 5.0, 1000 + seed, 3) for seed in range(50)])
    assert np.array_equal(same_initialization(stack) == 1, np.eye(50))
    flat = torch.nn.functional.normalize(stack.flatten(1), dim=1)
    naive = (flat @ flat.mT - torch.eye(50)).abs() > 6 / math.sqrt(8 * 128)
    assert naive.any()  # the entrywise cosine against 1/sqrt(rank d) alone would have marked some


def test_null_standard_deviation_of_independent_starts() -> None:
    cosine, _ = initialization_evidence([uniform_start(seed) for seed in range(120)])
    off = cosine[np.triu_indices(120, 1)]
    assert off.std().item() == pytest.approx(1 / math.sqrt(8 * 256), rel=0.03)
    assert abs(off.mean().item()) < 3 / math.sqrt(8 * 256 * len(off))


@given(st.integers(0, 2**31), st.integers(2, 8))
def test_signs_and_order_of_rows_break_the_match(seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(rank, 512, generator=generator)
    cosine, evidence = initialization_evidence([start, -start, start.roll(1, 0)])
    assert cosine[0, 1] == pytest.approx(-1, abs=1e-5)
    assert evidence.level[0, 0] == 4
    assert (evidence.level[0, 1:] <= 1).all()


def test_zero_and_rank_deficient_factors_are_values() -> None:
    start = uniform_start(0)
    deficient = start.clone()
    deficient[3] = deficient[2]
    stack = torch.stack([start, torch.zeros_like(start), deficient])
    cosine, _ = initialization_evidence(list(stack))
    assert np.isnan(cosine[1]).all()
    assert same_initialization(stack).tolist() == [[1, -1, 1], [-1, -1, -1], [1, -1, 1]]


def test_which_factor_was_initialized_at_random() -> None:
    def random(A: torch.Tensor, B: torch.Tensor, **known: Any) -> set[str]:
        return set(random_factors(Adapter.from_factors({"q": (A, B)}, **known))["q"])

    trained = torch.randn(64, 2, generator=torch.Generator().manual_seed(3)) @ torch.ones(2, 8)
    start = uniform_start(0)
    wide = uniform_start(5, size=64).T.contiguous()
    assert random(start, trained) == {"A"}
    assert random(trained.T.contiguous(), start.T.contiguous()) == {"B"}
    assert random(start, wide) == {"A", "B"}
    recorded = Adapter.from_factors({"q": (torch.zeros(8, 256), wide)})
    assert random(start, wide, initial=recorded) == {"B"}
    # A recorded initialization comes before the spectra: PEFT's B was zero, whatever it looks like now.
    assert random(start, wide, metadata={"init_lora_weights": True}) == {"A"}
    assert random(start, wide, metadata={"dialect": "mlx"}) == {"A"}
    assert random(start, wide, metadata={"init_lora_weights": "orthogonal"}) == {"A", "B"}
    embedding = Adapter.from_factors({"embed_tokens": (start, wide)}, metadata={"init_lora_weights": True})
    assert random_factors(embedding) == {"embed_tokens": {"B"}}


def converged(rank: int, modules: int, seed: int, shared: bool, *, size: int = 512, strength: float = 3.0) -> Adapter:
    """Every run drives the rows of A of a module to one direction, each with the sign that it was initialized with."""
    factors = {}
    for module in range(modules):
        target = torch.randn(size, generator=torch.Generator().manual_seed(500 + module))
        target /= target.norm()
        own = torch.Generator().manual_seed(module if shared else 1000 * (seed + 1) + module)
        start = torch.randn(rank, size, generator=own) / size**0.5
        A = start + strength * torch.sign(start @ target)[:, None] * target
        B = torch.randn(32, 1, generator=own) @ torch.sign(start @ target)[None, :]
        factors[f"l{module}.q"] = (A, B)
    return Adapter.from_factors(factors, name=f"run {seed}", metadata={"init_lora_weights": True})


@pytest.mark.parametrize("rank", [1, 2])
def test_low_ranks_are_told_by_the_signs_of_all_modules(rank: int) -> None:
    """Independent runs of one task converge to one direction each, up to its sign: a cosine of 1 says nothing."""
    independent = shared_initialization([converged(rank, 48, seed, shared=False) for seed in range(8)])
    assert (independent.frame.shared != "yes").all()
    related = shared_initialization(
        [converged(rank, 48, seed, shared=True, strength=s) for seed, s in ((0, 1), (1, 3))]
    )
    assert (related.frame.shared == "yes").all()
    assert related.groups == (("run 0", "run 1"),)


def test_a_module_without_power_is_not_told_no_where_all_modules_together_say_shared() -> None:
    """Moved by 1.6 to 1.8 at rank 4: no module shows three standard deviations, their sum shows six."""

    def evidence(trace: float, square: float, level: int, expected: float = 2.0) -> Evidence:
        return Evidence(*(np.array(value) for value in (trace, square, level, expected)))

    silent = [evidence(0.25 * 4, 0.1 * 4, 1) for _ in range(24)]
    assert marks(silent).tolist() == [-1] * 24
    assert marks([evidence(0.25 * 4, 0.1 * 4, 0) for _ in range(24)]).tolist() == [-1] * 24  # ruled out, one by one
    balanced = [evidence((-1) ** m * 1.0, 0.4, 1) for m in range(24)]
    assert marks(balanced).tolist() == [0] * 24
    # Nothing is ruled out where the factors grew so much that it is unknown what is left of the initialization.
    assert marks([evidence((-1) ** m * 1.0, 0.4, 1, np.nan) for m in range(24)]).tolist() == [-1] * 24
    # One module that is shared for certain says nothing of the others.
    assert marks([evidence(60.0, 56.0, 4), *balanced]).tolist() == [1] + [0] * 24
    # Shared in half of the modules, with a sign in some of these only.
    suggested = [evidence(2.0, 1.0, 2) for _ in range(12)]
    assert marks([*suggested, *silent]).tolist() == [1] * 12 + [-1] * 24


def steep(starts: torch.Tensor, share: float, seed: int) -> list[torch.Tensor]:
    """Moved by `share` of their length, half along a few directions of each run."""
    return [moved(moved(start, 0.7 * share, seed + i), 0.7 * share, 50 + seed + i, 2) for i, start in enumerate(starts)]


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("record", [{}, {"init_lora_weights": True}])
def test_one_module_of_low_rank_that_moved_far_is_not_told_that_it_shares_nothing(
    rank: int, record: dict[str, Any]
) -> None:
    told: dict[float, list[str]] = {share: [] for share in (0.2, 0.8, 2.0)}
    for share, answers in told.items():
        for seed in range(0, 400, 4):
            start = uniform_start(seed, rank, 256)
            runs = [
                Adapter.from_factors({"q": (A, torch.ones(16, rank))}, name=f"{i}", metadata=record)
                for i, A in enumerate(steep(torch.stack([start, start]), share, 7 * seed))
            ]
            answers += shared_initialization(runs).frame.shared.tolist()
    for share in (0.2, 0.8):
        assert told[share].count("no") <= 5, (share, told[share].count("no"))
    assert "no" not in told[2.0]  # the length shows how far it moved


def test_one_module_that_hardly_moved_is_told_that_it_shares_nothing() -> None:
    for rank in (1, 2, 4, 8):
        runs = [
            Adapter.from_factors({"q": (moved(uniform_start(seed, rank, 512), 0.2, 500 + seed), torch.ones(16, rank))})
            for seed in range(8)
        ]
        for run in runs:
            run.metadata["init_lora_weights"] = True  # type: ignore[index]
        shared = shared_initialization(runs).frame.shared
        assert (shared == "no").mean() > 0.9, rank
        assert (shared != "yes").all()


def test_one_module_of_rank_one_cannot_be_told() -> None:
    found = shared_initialization([converged(1, 1, 0, shared=True), converged(1, 1, 1, shared=True)])
    assert found.frame.shared.tolist() == ["cannot tell"]
    assert found.groups == ()


def test_factors_split_by_an_svd_hold_no_initialization() -> None:
    """Extracted and resized LoRA files: sorted singular vectors are alike whatever the initialization was."""
    generator = torch.Generator().manual_seed(0)
    common = {
        f"l{i}.q": torch.randn(64, 8, generator=generator) @ torch.randn(8, 256, generator=generator) for i in "01"
    }
    runs = []
    for seed in range(3):
        factors = {}
        for module, delta in common.items():
            noise = torch.randn(delta.shape, generator=generator)
            U, S, Vh = torch.linalg.svd(delta + 0.05 * noise, full_matrices=False)
            U, S, Vh = U[:, :8], S[:8], Vh[:8]
            split = [(U * S, Vh), (U * S.sqrt(), S.sqrt()[:, None] * Vh), (U, S[:, None] * Vh)][seed]
            factors[module] = (split[1].half().float(), split[0].half().float())
        runs.append(Adapter.from_factors(factors, name=str(seed), metadata={"dialect": "kohya"}))
    assert not any(has_initialization(run[module]) for run in runs for module in run)
    assert shared_initialization(runs).groups == ()
    assert (marks([initialization_evidence([run["l0.q"].A for run in runs])[1]])[0] == 1).all()  # the rows are alike
    assert not compare_subspaces(runs).same_initialization.any()


def ordered(rank: int, modules: int, seed: int, noise: float) -> Adapter:
    """What an SVD extracts of runs of one task, then trained on or quantized: `noise` of its length."""
    own = torch.Generator().manual_seed(seed + 1)
    factors = {}
    for module in range(modules):
        task = torch.Generator().manual_seed(500 + module)
        change = torch.randn(96, 2 * rank, generator=task) @ torch.randn(2 * rank, 128, generator=task)
        change += 0.3 * change.std() * torch.randn(change.shape, generator=own)
        U, S, Vh = torch.linalg.svd(change, full_matrices=False)
        signs = torch.sign(torch.randn(rank, generator=own))  # of singular vectors, which are anybody's
        A, B = (S[:rank].sqrt() * signs)[:, None] * Vh[:rank], U[:, :rank] * (S[:rank].sqrt() * signs)
        A, B = (x + noise * x.norm() / x.numel() ** 0.5 * torch.randn(x.shape, generator=own) for x in (A, B))
        factors[f"l{module}.q"] = (A, B)
    return Adapter.from_factors(factors, name=f"run {seed}", metadata={"dialect": "kohya"})


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize(("rank", "modules"), [(4, 24), (8, 24), (16, 12), (8, 1)])
def test_rows_that_something_ordered_are_no_shared_initialization(rank: int, modules: int, noise: float) -> None:
    """Extracted files that were trained on: of 144 modules of independent pairs, 58 were marked."""
    frame = shared_initialization([ordered(rank, modules, seed, noise) for seed in range(4)]).frame
    assert (frame.shared != "yes").all()


@pytest.mark.parametrize("turn", ["negated", "permuted", "mixed", "cut", "stacked"])
def test_a_copy_with_other_rows_is_not_told_that_it_shares_nothing(turn: str) -> None:
    """Each spans the rows of the other: no independent initialization, though no row lies beside its own."""
    generator = torch.Generator().manual_seed(0)
    order, mix = torch.randperm(8, generator=generator), torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    runs: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {"one": {}, "two": {}, "other": {}}
    for module in range(8):
        A, other = ((2 * torch.rand(2, 8, 256, generator=generator) - 1) / 16).unbind()
        B = torch.randn(32, 1, generator=generator) @ torch.ones(1, 8)
        new = {
            "negated": (-A, -B),
            "permuted": (A[order], B[:, order]),
            "mixed": (mix @ A, B @ mix.T),
            "cut": (A[4:], B[:, 4:]),
            "stacked": (torch.cat([other, A]), torch.cat([B, B], dim=1)),
        }[turn]
        runs["one"][f"l{module}"], runs["two"][f"l{module}"] = (A, B), new
        runs["other"][f"l{module}"] = ((2 * torch.rand(8, 256, generator=generator) - 1) / 16, B)
    found = shared_initialization(
        [Adapter.from_factors(factors, name=n, metadata={"dialect": "peft"}) for n, factors in runs.items()]
    ).frame.set_index(["adapter_i", "adapter_j"])
    assert set(found.loc[("one", "two")].shared) == {"cannot tell"}
    assert set(found.loc[("one", "other")].shared) == {"no"}


def test_a_family_that_shares_one_module_is_marked_there_also_across_ranks() -> None:
    """Two runs of one seed and unequal ranks draw the same numbers in the first module alone."""
    generator = torch.Generator().manual_seed(0)
    first, others = uniform_start(0, rank=8), [uniform_start(50 + n, rank=8) for n in range(6)]
    B = torch.randn(3, 64, 1, generator=generator) @ torch.ones(3, 1, 8)
    runs = [
        Adapter.from_factors(
            {"l0.q": (moved(first[:r], 0.4, r), B[0, :, :r]), "l1.q": (others[n][:r], B[1, :, :r])}, name=f"rank {r}"
        )
        for n, r in enumerate((4, 8, 6))
    ]
    found = shared_initialization(runs)
    assert found.frame.query("module == 'l0.q'").shared.tolist() == ["yes"] * 3
    assert found.frame.query("module == 'l1.q'").shared.tolist() == ["no"] * 3
    assert found.summary()[["count", "modules", "of_modules"]].to_numpy().tolist() == [[3, 1, 2]]
    comparison = compare_subspaces(runs)
    assert comparison.frame.query("factor == 'A'").same_initialization.tolist() == [True] * 3 + [False] * 3
    summary = comparison.summary().set_index(["factor", "pairs"]).value
    of_other = comparison.frame.query("factor == 'A' and module == 'l1.q'").value.mean()
    assert summary["A", "different initialization"] == pytest.approx(of_other)
    assert summary["A", "same initialization"] > 0.3


def test_comparison_and_shared_initialization_give_one_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    start, other = torch.randn(2, 200, 8, generator=generator)
    A = torch.randn(3, 8, 120, generator=generator)
    B = [start, start + 0.2 * torch.randn(200, 8, generator=generator), other]
    runs = [Adapter.from_factors({"q": tuple(pair)}, name=n) for n, *pair in zip("abc", A, B, strict=True)]
    found = shared_initialization(runs)
    assert found.groups == (("a", "b"),)
    assert compare_subspaces(runs).same_initialization.tolist() == [True, False, False]
    # Nothing is recorded of the third, so that it cannot be told whether it shares: it stands in no group.
    assert compare_subspaces(runs).labels("initialization").tolist() == [0, 0, -1]


def test_the_signs_of_independent_rows_stay_below_the_stated_tail() -> None:
    """P(S/sqrt(Q) > 3) is at most 3.18 times the normal tail, also for entries of very unequal size."""
    generator = np.random.default_rng(0)
    sizes = generator.pareto(1.0, 24)
    sums = (generator.choice([-1.0, 1.0], (200_000, 24)) * sizes).sum(1) / np.sqrt((sizes**2).sum())
    assert (sums > 3).mean() <= 3.18 * 1.35e-3 + 5 * math.sqrt(4e-3 / 200_000)


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    runs = [converged(2, 3, seed, shared=True) for seed in range(3)]
    found = shared_initialization(runs)
    for suffix in ("json", "parquet"):
        getattr(found, f"to_{suffix}")(tmp_path / f"found.{suffix}")
        again = getattr(SharedInitialization, f"from_{suffix}")(tmp_path / f"found.{suffix}")
        pd.testing.assert_frame_equal(again.frame, found.frame)
        assert again.groups == found.groups
        assert again.settings == found.settings


def test_groups_frame_and_mixed_ranks() -> None:
    trained = torch.randn(64, 2, generator=torch.Generator().manual_seed(3)) @ torch.ones(2, 8)
    runs = [
        Adapter.from_factors(
            {m: (moved(uniform_start(s + i), 0.3, n), trained) for i, m in enumerate("qv")}, name=f"{n}"
        )
        for n, s in enumerate([0, 0, 7, 7])
    ]
    other_rank = Adapter.from_factors({"q": (uniform_start(0, rank=4), trained[:, :4])}, name="rank 4")
    found = shared_initialization([*runs, other_rank])
    assert found.groups == (("0", "1", "rank 4"), ("2", "3"))
    assert found.groups_of("q", "A") == (("0", "1", "rank 4"), ("2", "3"))
    assert not found.shared("q", "B").any()
    assert found.shared("q").shape == (5, 5)
    assert set(found.frame.factor) == {"A"}
    assert len(found.frame) == 16  # six pairs in two modules, and four pairs with the one of rank 4
    assert (found.frame.shared == "yes").sum() == 6  # the first four rows of one seed are the rank-4 factor
    assert found.summary()["count"].tolist() == [3, 2]


def test_recorded_starts_stand_in_for_trained_factors() -> None:
    start, trained = uniform_start(0), torch.ones(64, 8)
    initial = Adapter.from_factors({"q": (start, torch.zeros(64, 8))})
    far = [Adapter.from_factors({"q": (moved(start, 30.0, n), trained)}, name=str(n), initial=initial) for n in (1, 2)]
    assert shared_initialization(far).groups == (("1", "2"),)
    hidden = [Adapter.from_factors({"q": (run["q"].A, trained)}, name=run.name) for run in far]
    assert shared_initialization(hidden).groups == ()


def test_real_checkpoints_of_one_run_share_their_start(shared_adapters: Path) -> None:
    folders = sorted((shared_adapters / "ner-roberta-base").iterdir()) + sorted(
        (shared_adapters / "685-bert-base").iterdir()
    )
    found = shared_initialization([read_peft(folder) for folder in folders])
    assert found.groups == (
        ("runA_r4_a16_ckpt308", "runA_r4_a16_ckpt616", "runA_r4_a16_ckpt924"),
        ("runB_r4_a16_ckpt308", "runB_r4_a16_ckpt924"),
    )
    assert found.frame.query("shared == 'yes'").cosine.min() > 0.9
    assert found.frame.query("shared == 'no'").cosine.abs().max() < 0.3
