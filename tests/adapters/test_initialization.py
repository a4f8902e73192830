from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from asym_analysis.adapters import Adapter
from asym_analysis.adapters.initialization import random_factors, same_start, shared_initialization


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
    _, shared = same_start(stack)
    assert shared.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_runs_that_learned_the_same_directions_share_no_start() -> None:
    # Fifty independent starts, each moved five times its length along the same three directions.
    stack = torch.stack([moved(uniform_start(seed, size=128), 5.0, 1000 + seed, 3) for seed in range(50)])
    _, shared = same_start(stack)
    assert torch.equal(shared, torch.eye(50, dtype=torch.bool))
    flat = torch.nn.functional.normalize(stack.flatten(1), dim=1)
    naive = (flat @ flat.mT - torch.eye(50)).abs() > 6 / math.sqrt(8 * 128)
    assert naive.any()  # the entrywise cosine against 1/sqrt(rank d) alone would have marked some


def test_null_standard_deviation_of_independent_starts() -> None:
    cosine, _ = same_start(torch.stack([uniform_start(seed) for seed in range(120)]))
    off = cosine[tuple(torch.triu_indices(120, 120, 1))]
    assert off.std().item() == pytest.approx(1 / math.sqrt(8 * 256), rel=0.03)
    assert abs(off.mean().item()) < 3 / math.sqrt(8 * 256 * len(off))


@given(st.integers(0, 2**31), st.integers(2, 8))
def test_signs_and_order_of_rows_break_the_match(seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(rank, 512, generator=generator)
    cosine, shared = same_start(torch.stack([start, -start, start.roll(1, 0)]))
    assert cosine[0, 1].item() == pytest.approx(-1, abs=1e-5)
    assert not shared[0, 1]
    assert not shared[0, 2]


def test_zero_and_rank_deficient_factors_are_values() -> None:
    start = uniform_start(0, rank=4)
    deficient = start.clone()
    deficient[3] = deficient[2]
    cosine, shared = same_start(torch.stack([start, torch.zeros_like(start), deficient]))
    assert torch.isnan(cosine[1]).all()
    assert shared.tolist() == [[True, False, True], [False, False, False], [True, False, True]]


def test_which_factor_began_at_random() -> None:
    trained = torch.randn(64, 2, generator=torch.Generator().manual_seed(3)) @ torch.ones(2, 8)
    start = uniform_start(0)
    wide = uniform_start(5, size=64).T.contiguous()
    assert random_factors(Adapter.from_factors({"q": (start, trained)})) == {"A"}
    assert random_factors(Adapter.from_factors({"q": (trained.T.contiguous(), start.T.contiguous())})) == {"B"}
    assert random_factors(Adapter.from_factors({"q": (start, wide)})) == {"A", "B"}
    recorded = Adapter.from_factors({"q": (torch.zeros(8, 256), wide)})
    assert random_factors(Adapter.from_factors({"q": (start, wide)}, initial=recorded)) == {"B"}


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
    assert found.groups == (("0", "1"), ("2", "3"))
    assert found.groups_of("q", "A") == (("0", "1"), ("2", "3"))
    assert not found.shared("q", "B").any()
    assert found.shared("q").shape == (5, 5)
    assert set(found.frame.factor) == {"A"}
    assert len(found.frame) == 12  # six pairs of one shape, two modules; rank 4 is compared with nothing
    assert found.frame.shared.sum() == 4
    assert found.summary()["count"].tolist() == [2, 2]


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
    assert found.frame.query("shared").cosine.min() > 0.9
    assert found.frame.query("not shared").cosine.abs().max() < 0.3
