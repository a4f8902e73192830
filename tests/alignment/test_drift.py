from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from asym_analysis.adapters import Adapter
from asym_analysis.adapters.load import load_adapter
from asym_analysis.alignment.drift import initialization_drift
from asym_analysis.errors import AdapterError


def toy(seed: int = 0, moved: float = 0.3) -> tuple[Adapter, Adapter]:
    generator = torch.Generator().manual_seed(seed)
    factors, starts = {}, {}
    for layer in range(4):
        start = (2 * torch.rand(8, 384, generator=generator) - 1) / 384**0.5
        step = torch.randn(8, 384, generator=generator)
        B = torch.randn(96, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
        factors[f"layer.{layer}.query"] = (start + moved * start.norm() * step / step.norm(), B)
        starts[f"layer.{layer}.query"] = (start, torch.zeros(96, 8))
    return Adapter.from_factors(factors, name="toy"), Adapter.from_factors(starts, name="start")


def test_with_the_start_the_distance_is_exact() -> None:
    adapter, start = toy()
    frame = initialization_drift(adapter, start).frame
    of_A = frame[frame.factor == "A"]
    assert of_A.value.to_numpy() == pytest.approx(0.3, rel=1e-5)
    assert set(of_A.method) == {"exact"}
    assert (of_A.layer == [0, 1, 2, 3]).all()
    of_B = frame[frame.factor == "B"]
    assert of_B.value.isna().all()
    assert of_B.norm.iloc[0] == pytest.approx(adapter["layer.0.query"].B.norm().item(), rel=1e-6)
    assert (of_B.initial_norm == 0).all()


def test_a_recorded_start_is_used_and_a_wrong_one_refused() -> None:
    adapter, start = toy()
    factors = {module: (adapter[module].A, adapter[module].B) for module in adapter}
    recorded = Adapter.from_factors(factors, initial=start)
    assert set(initialization_drift(recorded).frame.method) == {"exact"}
    short = Adapter.from_factors({module: (A[:4], B[:, :4]) for module, (A, B) in factors.items()})
    with pytest.raises(AdapterError, match="its start"):
        initialization_drift(adapter, short)


def test_without_the_start_it_is_inferred_for_the_random_factor_alone() -> None:
    adapter, _ = toy()
    drift = initialization_drift(adapter)
    of_A = drift.frame[drift.frame.factor == "A"]
    assert ((of_A.value - 0.3).abs() < 3 * of_A.std_error).all()
    assert set(of_A.scheme) == {"kaiming_uniform"}
    assert drift.frame[drift.frame.factor == "B"].value.isna().all()
    row = drift.summary().set_index("factor").loc["A"]
    assert (row.modules, row.told) == (4, 4)
    assert row["median"] == pytest.approx(0.3, abs=0.05)


def test_a_scheme_that_starts_from_the_weights_is_refused_by_name() -> None:
    adapter, _ = toy()
    factors = {module: (adapter[module].A, adapter[module].B) for module in adapter}
    pissa = Adapter.from_factors(factors, metadata={"init_lora_weights": "pissa"})
    frame = initialization_drift(pissa).frame
    assert frame.value.isna().all()
    assert frame[frame.factor == "A"].note.str.contains("pissa").all()


def test_real_adapters(shared_adapters: Path) -> None:
    def drift(folder: str) -> float:
        summary = initialization_drift(load_adapter(shared_adapters / folder)).summary().set_index("factor")
        return float(summary.loc["A", "median"])

    # Two optimizer steps, a third of a run, and its end.
    names = ["smoke_r4_a16_ckpt2_nearinit", "runA_r4_a16_ckpt308", "runA_r4_a16_ckpt924"]
    moved = [drift(f"ner-roberta-base/{name}") for name in names]
    assert moved == sorted(moved)
    assert moved[0] < 0.02
    untrained = initialization_drift(load_adapter(shared_adapters / "variety/zeroB_gemma_untrained")).frame
    of_A = untrained[untrained.factor == "A"]
    assert of_A.value.isna().all()
    assert of_A.upper.max() < 0.04
    assert all(math.isnan(value) for value in of_A.std_error)
