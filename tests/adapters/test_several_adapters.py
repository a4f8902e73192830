"""A file of several adapters is several adapters."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from asym_analysis import load_adapter, load_adapters
from asym_analysis.errors import AdapterError, SeveralAdaptersError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.q(x))


@pytest.fixture
def wrapped() -> peft.PeftModel:
    """A model with two adapters, of which each has a head of its own."""
    configs = [
        peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["q"], modules_to_save=["head"]) for alpha in (4, 8)
    ]
    model = peft.get_peft_model(Model(), configs[0], adapter_name="french")
    model.add_adapter("german", configs[1])
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape)
    return model


@pytest.fixture
def file(wrapped: peft.PeftModel, tmp_path: Path) -> Path:
    torch.save(wrapped.state_dict(), tmp_path / "state.pt")
    return tmp_path / "state.pt"


def delta(model: peft.PeftModel, adapter: str) -> torch.Tensor:
    return model.base_model.model.q.get_delta_weight(adapter)


def test_state_dict_of_a_wrapped_model(wrapped: peft.PeftModel, file: Path) -> None:
    config = {
        name: {"peft_type": "LORA", "r": 2, "lora_alpha": alpha} for name, alpha in (("french", 4), ("german", 8))
    }
    adapters = load_adapters(file, config=config)
    assert adapters.names == ("state/french", "state/german")
    for adapter in adapters:
        name = adapter.name.removeprefix("state/")
        torch.testing.assert_close(adapter["q"].delta(), delta(wrapped, name))
        assert list(adapter) == ["q"]
        assert set(adapter.extras) == {"head.weight", "head.bias"}
        head = wrapped.base_model.model.head.modules_to_save[name].weight
        assert torch.equal(adapter.extras["head.weight"].read(), head)


def test_one_of_them(wrapped: peft.PeftModel, file: Path) -> None:
    with pytest.raises(SeveralAdaptersError, match=r"2 adapters \(french, german\): choose one with adapter='french'"):
        load_adapter(file)
    german = load_adapter(file, adapter="german", scale=4)
    torch.testing.assert_close(german["q"].delta(), delta(wrapped, "german"))
    with pytest.raises(AdapterError, match=r"no adapter 'spanish' \(it holds french, german\)"):
        load_adapter(file, adapter="spanish")


def test_in_memory(wrapped: peft.PeftModel) -> None:
    assert load_adapters(wrapped.state_dict()).names == ("in memory/french", "in memory/german")


def test_adapter_hub(tmp_path: Path) -> None:
    tensors = {f"h.0.query.loras.{name}.lora_{f}": torch.ones(2, 2) for name in ("sst2", "mnli") for f in "AB"}
    torch.save(tensors, tmp_path / "adapters.pt")
    assert [list(adapter) for adapter in load_adapters(tmp_path)] == [["h.0.query"], ["h.0.query"]]


def test_a_file_of_one_adapter_may_be_asked_by_name(tmp_path: Path) -> None:
    state = {f"q.lora_{f}.default.weight": torch.ones(2, 2) for f in "AB"}
    assert list(load_adapter(state, adapter="default")) == ["q"]
    with pytest.raises(AdapterError, match="holds no adapter 'other'"):
        load_adapter(state, adapter="other")
