"""Adapters that break an analysis's assumptions: a right value, or one sentence that says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from asym_analysis import Adapter, load_adapter
from asym_analysis import questions as ask
from asym_analysis.errors import AdapterError

D_IN, D_OUT = 24, 16


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(seed: int = 0, rank: int = 3, size: float = 1.0, modules: tuple[str, ...] = ("layers.0.q_proj",)) -> Adapter:
    pairs = {m: (draw(rank, D_IN, seed=seed + 7 * i), size * draw(D_OUT, rank, seed=99 + seed + 7 * i))
             for i, m in enumerate(modules)}  # fmt: skip
    return Adapter.from_factors(pairs, name=f"run {seed}")


def untrained(seed: int = 0) -> Adapter:
    return Adapter.from_factors(
        {"layers.0.q_proj": (draw(3, D_IN, seed=seed), torch.zeros(D_OUT, 3))}, name="untrained"
    )


def singular(seed: int = 0) -> Adapter:
    """Rank 3 of which one direction is used: rows and columns repeat."""
    pair = draw(1, D_IN, seed=seed).repeat(3, 1), draw(D_OUT, 1, seed=seed + 1).repeat(1, 3)
    return Adapter.from_factors({"layers.0.q_proj": pair}, name=f"singular {seed}")


def dora(seed: int = 0) -> Adapter:
    return load_adapter(
        {
            "layers.0.q_proj.lora_A.weight": draw(3, D_IN, seed=seed),
            "layers.0.q_proj.lora_B.weight": draw(D_OUT, 3, seed=seed + 1),
            "layers.0.q_proj.lora_magnitude_vector": torch.ones(D_OUT),
        }
    ).replaced(name=f"dora {seed}")


BASE = {"layers.0.q_proj.weight": draw(D_OUT, D_IN, seed=5)}
ONE: dict[str, Callable[[Adapter], object]] = {
    "null-space": lambda a: ask.null_space_energy(a, {m: torch.eye(D_IN) for m in a}),
    "null-space, one input": lambda a: ask.null_space_energy(a, {m: torch.diag(torch.eye(D_IN)[0]) for m in a}),
    "base": lambda a: ask.base_alignment(a, BASE, k=4),
    "initialization": lambda a: ask.initialization_statistics(a, a),
    "ranks": lambda a: ask.allocate_rank(a, 2),
    "projections": lambda a: ask.projection_terms(a, BASE),
    "scaling": lambda a: ask.intruder_scaling(a, BASE, moments={m: torch.eye(D_IN) for m in a}),
    "worth": lambda a: ask.direction_worth(a, {m: draw(D_OUT, D_IN) for m in a}),
    "gradient": lambda a: ask.gradient_alignment(a, {m: draw(D_OUT, D_IN) for m in a}),
    "doctor": lambda a: ask.examine(a, base=BASE, moments={m: torch.eye(D_IN) for m in a}),
}
MANY: dict[str, Callable[[list[Adapter]], object]] = {
    "chain": ask.chain_coverage,
    "movement": ask.factor_movement,
    "merge": ask.merge_compensation,
    "crowding": lambda runs: ask.crowding(runs, draws=20),
    "clusters": lambda runs: ask.clustered_diagonalization(runs, 2, (1, 2), draws=1),
    "mean": ask.mean_adapter_baseline,
}
KINDS: dict[str, Callable[[int], Adapter]] = {
    "rank 1": lambda seed: plain(seed, rank=1),
    "rank above the width": lambda seed: plain(seed, rank=30),
    "untrained": untrained,
    "singular": singular,
    "huge": lambda seed: plain(seed, size=1e15),
    "tiny": lambda seed: plain(seed, size=1e-15),
    "DoRA": dora,
}


def finite_or_missing(found: object) -> bool:
    """No infinity or rounding sign where a share or probability stands."""
    frame = found.frame  # type: ignore[attr-defined]
    shares = [c for c in frame if c.endswith(("share", "_p_value")) or c in ("overlap", "energy_kept", "inside")]
    values = frame[shares].to_numpy(dtype=float)
    return bool(((values >= -1e-9) & (values <= 1 + 1e-9) | np.isnan(values)).all())


# No update, or none that is s·B·A: nothing can be said.
SILENT = ("untrained", "DoRA")


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", ONE)
def test_one_adapter(question: str, kind: str) -> None:
    with pytest.raises(AdapterError) if kind in SILENT else nullcontext() as refused:
        found = ONE[question](KINDS[kind](3))
        assert finite_or_missing(found)
        assert len(found.summary()) or question == "doctor"  # type: ignore[attr-defined]
        if kind in SILENT:
            raise AdapterError("answered")
    assert refused is None or len(str(refused.value)) < 300


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", MANY)
def test_several_adapters(question: str, kind: str) -> None:
    with pytest.raises(AdapterError) if kind in SILENT else nullcontext():
        assert finite_or_missing(MANY[question]([KINDS[kind](seed) for seed in (1, 11, 21)]))
        if kind in SILENT:
            raise AdapterError("answered")


@pytest.mark.parametrize("question", [*MANY])
def test_adapters_without_a_common_module_are_refused(question: str) -> None:
    runs = [plain(i, modules=(f"layers.{i}.q_proj",)) for i in range(3)]
    with pytest.raises(AdapterError):
        MANY[question](runs)


@pytest.mark.parametrize("question", [q for q in MANY if q not in ("movement", "crowding")])
def test_adapters_of_another_width_are_refused(question: str) -> None:
    other = Adapter.from_factors({"layers.0.q_proj": (draw(3, 20), draw(D_OUT, 3))}, name="other")
    with pytest.raises(AdapterError):
        MANY[question]([plain(1), plain(2), other])


@pytest.mark.parametrize("question", ["null-space", "base", "worth", "gradient"])
def test_a_module_without_its_partner_is_named(question: str) -> None:
    with pytest.raises(AdapterError, match="other"):
        ONE[question](Adapter.from_factors({"other": (draw(2, 9), draw(7, 2))}))
