"""Initializations that change the base weight too: said, and exact where the initial factors are recorded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from asym_analysis import adapter_spectra, intruder_dimensions, load_adapter
from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.inspection import inspect_modules
from asym_analysis.errors import AdapterError

LAYERS = ("q_proj", "v_proj")


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(12, 10, bias=False) for name in LAYERS})


def _trained(kind: Any, initial: Path | None, **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model as if trained, its initial factors saved on the way, and the change of its weights."""
    base = _model()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=list(LAYERS), init_lora_weights=kind, **options)
    model = peft.get_peft_model(base, config)
    if initial is not None:
        model.save_pretrained(initial)
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    after = copy.deepcopy(model).merge_and_unload().state_dict()
    return model, {name: after[f"{name}.weight"] - before[f"{name}.weight"] for name in LAYERS}


def _assert_is_the_change(adapter: Adapter, change: dict[str, torch.Tensor]) -> None:
    for name in LAYERS:
        torch.testing.assert_close(adapter[name].delta(), change[name], rtol=1e-4, atol=1e-5)
        assert adapter[name].frobenius_norm() == pytest.approx(change[name].norm().item(), rel=1e-4)
        assert adapter.source(name).rank == adapter[name].rank == 6


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_2", "olora"])
@pytest.mark.parametrize("place", ["initial.safetensors", "inside", "beside"])
def test_the_change_is_that_of_the_pretrained_weight(kind: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    named = f"{kind.partition('_')[0]}_init"
    initial = {"inside": folder / named, "beside": tmp_path / named}.get(place, tmp_path / "elsewhere")
    model, change = _trained(kind, initial)
    model.save_pretrained(folder)
    if place == "initial.safetensors":
        (initial / "adapter_model.safetensors").rename(folder / place)
    adapter = load_adapter(folder)
    _assert_is_the_change(adapter, change)
    assert adapter.base_changed is None
    assert "subtracted" in adapter.metadata["converted"]
    assert adapter.assumptions == ()
    assert len(adapter.metadata["sha256"]) == 64
    source = adapter.source("q_proj")
    assert {name: part.shape for name, part in source.parts.items()} == {"A": (3, 12), "B": (10, 3)}
    held = source.read_with({"B": torch.zeros(10, 3)})
    assert held.frobenius_norm() > 0, "what was taken out of the base weight is still missing"
    weights, vectors = _model().state_dict(), torch.linalg.svd
    before = vectors(weights["q_proj.weight"]).U
    largest = (before.T @ vectors(weights["q_proj.weight"] + change["q_proj"]).U[:, :3]).abs().amax(0)
    found = intruder_dimensions(adapter, _model(), top_k=3, threshold=0.97)
    assert found.modules.set_index("module").intruders["q_proj"] == int((largest < 0.97).sum())


@pytest.mark.parametrize("kind", ["pissa", "olora", "loftq"])
def test_it_is_said_where_the_initial_factors_are_missing(kind: str, tmp_path: Path) -> None:
    if kind == "loftq":
        model, _ = _trained(True, None)
        model.peft_config["default"].init_lora_weights = "loftq"
    else:
        model, change = _trained(kind, None)
        assert (load_adapter(model)["q_proj"].delta() - change["q_proj"]).norm() > 0.1 * change["q_proj"].norm()
    model.save_pretrained(tmp_path)
    for adapter in (load_adapter(tmp_path), load_adapter(model)):
        assert adapter.base_changed is not None
        assert "pretrained weight" in adapter.base_changed
        assert [assumption.what for assumption in adapter.assumptions] == ["base weight"]
        assert set(inspect_modules(adapter).frame.note) == {"the base weight was changed too: not the whole change"}
        with pytest.raises(AdapterError, match=r"W0 .* cannot tell, since .* the pretrained weight"):
            intruder_dimensions(adapter, _model(), top_k=3)
        with pytest.warns(UserWarning, match="norms of dW"):
            adapter_spectra(adapter)


def test_initial_factors_of_another_model_are_not_subtracted(tmp_path: Path) -> None:
    model, _ = _trained("pissa", None)
    model.save_pretrained(tmp_path / "run")
    other = peft.get_peft_model(
        nn.ModuleDict({"q_proj": nn.Linear(12, 10)}), peft.LoraConfig(r=3, target_modules=["q_proj"])
    )
    other.save_pretrained(tmp_path / "pissa_init")
    adapter = load_adapter(tmp_path / "run")
    assert adapter.base_changed is not None
    assert adapter.source("q_proj").rank == 3


def _kasa() -> Any:
    config = pytest.importorskip("peft.tuners.lora.config")
    return config.KasaConfig() if hasattr(config, "KasaConfig") else pytest.skip("this PEFT has no KaSA")


@pytest.mark.parametrize("kind", ["pissa", "olora", "kasa"])
def test_the_pretrained_weights_give_what_was_taken_out_of_them(kind: str, tmp_path: Path) -> None:
    options = {"kasa_config": _kasa()} if kind == "kasa" else {}
    model, change = _trained(True if kind == "kasa" else kind, tmp_path / f"{kind}_init", **options)
    model.save_pretrained(tmp_path / "run")
    for adapter in (load_adapter(tmp_path / "run", base=_model()), load_adapter(model, base=_model())):
        _assert_is_the_change(adapter, change)
        assert adapter.base_changed is None
        assert "subtracted" in adapter.metadata["converted"]
        assert "W0" not in adapter.source("q_proj").trained_parts()


def test_kasa_is_said(tmp_path: Path) -> None:
    model, _ = _trained(True, None, kasa_config=_kasa())
    model.save_pretrained(tmp_path)
    assert str(load_adapter(tmp_path).base_changed).startswith("KaSA took the smallest singular values")


def test_what_peft_converted_is_left_alone(tmp_path: Path) -> None:
    model, change = _trained("pissa", None)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "plain")
    assert load_adapter(tmp_path / "plain").base_changed is None
    first, _ = _trained("pissa", tmp_path / "initial")
    first.peft_config["default"].init_lora_weights = "pissa"
    first.save_pretrained(tmp_path / "run", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    _assert_is_the_change(load_adapter(tmp_path / "run"), change)
