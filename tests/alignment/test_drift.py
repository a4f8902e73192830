from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from asym_analysis.adapters import Adapter
from asym_analysis.adapters.load import load_adapter
from asym_analysis.alignment.drift import InitializationDrift, initialization_drift
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


def test_with_the_initial_factors_the_distance_is_measured() -> None:
    adapter, start = toy()
    frame = initialization_drift(adapter, start).frame
    of_A = frame[frame.factor == "A"]
    assert of_A.value.to_numpy() == pytest.approx(0.3, rel=1e-5)
    assert set(of_A.verdict) == {"measured"}
    assert (of_A.layer == [0, 1, 2, 3]).all()
    of_B = frame[frame.factor == "B"]
    assert of_B.value.isna().all()
    assert set(of_B.verdict) == {"recorded zero"}
    assert of_B.norm.iloc[0] == pytest.approx(adapter["layer.0.query"].B.norm().item(), rel=1e-6)
    assert (of_B.initial_norm == 0).all()


def test_recorded_initial_factors_are_used_and_wrong_ones_refused() -> None:
    adapter, start = toy()
    factors = {module: (adapter[module].A, adapter[module].B) for module in adapter}
    recorded = Adapter.from_factors(factors, initial=start)
    assert set(initialization_drift(recorded).frame.verdict) == {"measured", "recorded zero"}
    short = Adapter.from_factors({module: (A[:4], B[:, :4]) for module, (A, B) in factors.items()})
    with pytest.raises(AdapterError, match="its initialization"):
        initialization_drift(adapter, short)


def test_without_them_it_is_inferred_for_the_random_factor_alone() -> None:
    adapter, _ = toy()
    drift = initialization_drift(adapter)
    of_A = drift.frame[drift.frame.factor == "A"]
    assert ((of_A.value - 0.3).abs() < 2.5 * of_A.std_error).all()
    assert set(of_A.scheme) == {"kaiming_uniform"}
    assert set(of_A.verdict) == {"inferred"}
    of_B = drift.frame[drift.frame.factor == "B"]
    assert of_B.value.isna().all()
    assert of_B.reason.str.contains("nothing records the initialization").all()
    row = drift.summary().set_index("factor").loc["A"]
    assert (row.modules, row.known, row.verdict) == (4, 4, "inferred")
    assert row["median"] == pytest.approx(0.3, abs=0.05)


def rewritten(adapter: Adapter, **metadata: object) -> Adapter:
    factors = {module: (adapter[module].A, adapter[module].B) for module in adapter}
    return Adapter.from_factors(factors, name="rewritten", metadata=metadata)


@pytest.mark.parametrize(
    "metadata",
    [{"init_lora_weights": True}, {"init_lora_weights": "gaussian"}, {"dialect": "mlx"}, {"dialect": "kohya"}],
)
def test_a_B_that_was_zero_is_never_told_a_movement(metadata: dict[str, object]) -> None:
    """Also where it has come to look like noise of some law: its norm is what it moved."""
    generator = torch.Generator().manual_seed(0)
    adapter, _ = toy()
    noisy = Adapter.from_factors({m: (adapter[m].A, torch.randn(96, 8, generator=generator) / 3) for m in adapter})
    of_B = initialization_drift(rewritten(noisy, **metadata)).frame.query("factor == 'B'")
    assert set(of_B.verdict) == {"recorded zero"}
    assert of_B.value.isna().all()
    assert of_B.upper.isna().all()


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        ("pissa", "computed from the base weights"),
        ("olora", "computed from the base weights"),
        ("eva", "computed from the base weights"),
        ("gaussian", "a distribution without an edge"),
        ("orthogonal", "a distribution without an edge"),
    ],
)
def test_a_recorded_scheme_that_shows_nothing_is_named(recorded: str, reason: str) -> None:
    of_A = initialization_drift(rewritten(toy()[0], init_lora_weights=recorded)).frame.query("factor == 'A'")
    assert of_A.value.isna().all()
    assert set(of_A.verdict) == {"cannot tell"}
    assert of_A.reason.str.contains(reason).all()


def test_factors_split_by_an_svd_are_told_nothing() -> None:
    adapter, _ = toy()
    balanced = {module: adapter[module].balanced() for module in adapter}
    split = Adapter.from_factors(
        {module: (u.A[:2], u.B[:, :2]) for module, u in balanced.items()}, metadata={"dialect": "kohya"}
    )
    frame = initialization_drift(split).frame
    assert frame.reason.str.contains("split anew").all()
    assert set(frame.verdict) == {"cannot tell"}  # B too: kohya's default of zero is not where an extraction began


@pytest.mark.parametrize("spread", [0.0, 1.2])
@pytest.mark.parametrize("rank", [2, 4, 16])
def test_an_extraction_that_was_clipped_did_not_begin_at_zero(spread: float, rank: int) -> None:
    """kohya's extract_lora_from_models.py cuts both factors off at the 99th percentile of their entries."""
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for layer in range(6):
        weight = 0.01 * torch.randn(160, 192, generator=generator)
        weight *= torch.exp(spread * torch.randn(160, 1, generator=generator))
        weight *= torch.exp(spread * torch.randn(1, 192, generator=generator))
        U, S, Vh = torch.linalg.svd(weight)
        B, A = U[:, :rank] * S[:rank], Vh[:rank]
        most = torch.quantile(torch.cat([B.flatten(), A.flatten()]), 0.99)
        factors[f"layer.{layer}.q"] = (A.clamp(-most, most).half(), B.clamp(-most, most).half())
    metadata = {"dialect": "kohya", "peft_type": "networks.lora"}
    told = initialization_drift(Adapter.from_factors(factors, metadata=metadata)).frame
    assert set(told.verdict) == {"cannot tell"}


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_steps_of_one_size_are_no_clipping(steps: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(steps)
    factors = {}
    for layer in range(6):
        A = (2 * torch.rand(8, 256, generator=generator) - 1) / 16
        signs = torch.randn(steps, 192, 8, generator=generator) + 0.3 * torch.randn(192, 8, generator=generator)
        factors[f"layer.{layer}.q"] = (A.to(dtype), (1e-3 * signs.sign().sum(0)).to(dtype))
    told = initialization_drift(Adapter.from_factors(factors, metadata={"dialect": "kohya"})).frame
    assert set(told.query("factor == 'B'").verdict) == {"recorded zero"}


@pytest.mark.parametrize("metadata", [{"init_lora_weights": True}, {"dialect": "peft"}])
def test_a_converted_pissa_adapter_did_not_begin_at_zero(metadata: dict[str, object]) -> None:
    """PEFT saves [A1; A0], [B1, -B0] and init_lora_weights=True: B was told to have begun at zero."""
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for layer in range(6):
        A, B = torch.randn(4, 128, generator=generator), torch.randn(96, 4, generator=generator)
        moved = [x + 0.3 * torch.randn(x.shape, generator=generator) for x in (A, B)]
        factors[f"layer.{layer}.q"] = (torch.cat([moved[0], A]), torch.cat([moved[1], -B], dim=1))
    frame = initialization_drift(Adapter.from_factors(factors, metadata=metadata)).frame
    assert set(frame.verdict) == {"cannot tell"}
    assert frame.reason.str.contains("a difference of two adapters").all()


def test_paths_sets_and_a_round_trip(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        adapter, _ = toy(ord(name))
        state = {
            f"base_model.model.{m}.lora_{f}.weight": getattr(adapter[m], f).contiguous() for m in adapter for f in "AB"
        }
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        save_file(state, folders[-1] / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "init_lora_weights": True}
        (folders[-1] / "adapter_config.json").write_text(json.dumps(config))
    drift = initialization_drift(folders)
    assert drift.summary()[["adapter", "factor", "known", "verdict"]].to_numpy().tolist() == [
        ["a", "A", 4, "inferred"],
        ["a", "B", 0, "recorded zero"],
        ["b", "A", 4, "inferred"],
        ["b", "B", 0, "recorded zero"],
    ]
    one = initialization_drift(str(folders[0])).frame
    pd.testing.assert_frame_equal(one, drift.frame[drift.frame.adapter == "a"])
    drift.to_json(tmp_path / "drift.json")
    pd.testing.assert_frame_equal(InitializationDrift.from_json(tmp_path / "drift.json").frame, drift.frame)


def test_an_adapter_of_72_modules_takes_less_than_a_second_and_a_half() -> None:
    generator = torch.Generator().manual_seed(0)
    start = (2 * torch.rand(72, 8, 768, generator=generator) - 1) / 768**0.5
    B = torch.randn(72, 768, 8, generator=generator)
    adapter = Adapter.from_factors({f"layer.{i}.q": (start[i], B[i]) for i in range(72)}, metadata={"dialect": "peft"})
    initialization_drift(toy()[0])  # tables of the first call
    begin = time.process_time()
    initialization_drift(adapter)
    assert time.process_time() - begin < 1.5


def test_a_default_that_no_config_records_is_called_one(tmp_path: Path) -> None:
    """PEFT has initializations in which B does not begin at zero; only its config says which was taken."""
    adapter, _ = toy()
    state = {}
    for module, update in adapter.items():
        state[f"base_model.model.{module}.lora_A.weight"] = update.A.float().contiguous()
        state[f"base_model.model.{module}.lora_B.weight"] = update.B.float().contiguous()
    (tmp_path / "bare").mkdir()
    save_file(state, tmp_path / "bare" / "adapter_model.safetensors")

    def verdicts(given: Path) -> set[str]:
        of_B = initialization_drift(given).frame.query("factor == 'B'")
        assert (of_B.scheme.isna() == (of_B.verdict == "zero by default")).all()
        return set(of_B.verdict)

    assert verdicts(tmp_path / "bare") == {"zero by default"}
    load_adapter(tmp_path / "bare").save(tmp_path / "written")  # our own config records no more than was known
    assert verdicts(tmp_path / "written") == {"zero by default"}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}  # as PEFT wrote it before there was a choice
    (tmp_path / "bare" / "adapter_config.json").write_text(json.dumps(config))
    assert verdicts(tmp_path / "bare") == {"recorded zero"}


def test_real_adapters(shared_adapters: Path) -> None:
    names = ["smoke_r4_a16_ckpt2_nearinit", "runA_r4_a16_ckpt308", "runA_r4_a16_ckpt924"]
    frame = initialization_drift([shared_adapters / "ner-roberta-base" / name for name in names]).frame
    assert set(frame[frame.factor == "B"].verdict) == {"recorded zero"}
    of_A = frame[frame.factor == "A"].set_index("adapter")
    # Two optimizer steps, a third of a run, and its end.
    assert of_A.value[names[0]].isna().all()
    assert of_A.upper[names[0]].max() < 0.06
    medians = [of_A.value[name].median() for name in names[1:]]
    assert 0.02 < medians[0] < medians[1]
    untrained = initialization_drift(load_adapter(shared_adapters / "variety/zeroB_gemma_untrained")).frame
    of_A = untrained[untrained.factor == "A"]
    assert of_A.value.isna().all()
    assert of_A.upper.max() < 0.06
