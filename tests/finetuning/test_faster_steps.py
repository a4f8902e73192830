"""Frozen maps in lower precision and remembered activations against the plain model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertModel

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.digest import changed_inputs
from asym_analysis.finetuning.frozen_maps import FrozenLinear, multiply_frozen_maps_in
from asym_analysis.finetuning.remembered import remember_frozen_layers

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {"vocab_size": 30, "max_position_embeddings": 16}


def adapted(layers: str = "[12]", *, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    model: Any = get_peft_model(
        BertModel(config, add_pooling_layer=False), LoraConfig(target_modules=rf".*layer\.{layers}\..*query", r=2)
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 30, (4, 8), generator=torch.Generator().manual_seed(2))
    mask = (torch.arange(8) < torch.tensor([8, 5, 3, 8])[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def gradients(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    hidden = model(**inputs)[0]
    # No plain square: after a layer norm it is a constant.
    weights = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(3))
    (torch.sin(hidden * weights) * inputs["attention_mask"][..., None]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_remembered_activations_give_the_same_gradients_in_any_order() -> None:
    plain, fast, inputs = adapted(), adapted(), batch()
    assert remember_frozen_layers(fast) == 1
    turned = {name: value.flip(0) for name, value in inputs.items()}
    for each in (inputs, turned, inputs):  # the first call runs the layer, the others remember
        expected, found = gradients(plain, each), gradients(fast, each)
        assert [name for name in found if "lora" in name] == [name for name in expected if "lora" in name]
        for name, value in found.items():
            assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-5), name


def test_a_layer_is_run_once_for_the_same_weights_and_again_for_others() -> None:
    runs = []
    for change in (1.1, 1.1, 1.2):
        model, ran = adapted(), []
        model.base_model.model.encoder.layer[0].output.dense.weight.data *= change
        model.base_model.model.encoder.layer[0].register_forward_hook(lambda *_, ran=ran: ran.append(1))
        remember_frozen_layers(model)
        for _ in range(3):
            model(**batch())
        runs.append(len(ran))
    assert runs == [1, 0, 1]


def test_what_cannot_be_remembered_is_refused() -> None:
    with pytest.raises(AdapterError, match="with dropout"):
        remember_frozen_layers(adapted(dropout=0.1))
    assert remember_frozen_layers(adapted("[012]")) == 0
    with pytest.raises(AdapterError, match="this model has 0"):
        remember_frozen_layers(nn.Linear(2, 2))
    model, inputs = adapted(), batch()
    remember_frozen_layers(model)
    with pytest.raises(AdapterError, match="padded on the right only"):
        model(**{name: value.flip(1) for name, value in inputs.items()})


def test_frozen_maps_round_and_trained_ones_do_not() -> None:
    model, inputs = adapted(), batch()
    exact = gradients(model, inputs)
    factors = {name: p for name, p in model.named_parameters() if "lora_" in name}
    count = multiply_frozen_maps_in(model, torch.bfloat16)
    assert count == sum(isinstance(module, FrozenLinear) for module in model.modules()) == 3 * 6
    assert {name: p for name, p in model.named_parameters() if "lora_" in name}.keys() == factors.keys()
    rounded = gradients(model, inputs)
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert (value - exact[name]).norm() < 0.05 * exact[name].norm(), name


def test_one_frozen_map_is_autocast() -> None:
    """The same roundings as torch.autocast, for the output and for the gradient of the input; what follows is exact."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 8).requires_grad_(False)
    x = torch.randn(5, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
    (gradient,) = torch.autograd.grad(expected.float().square().sum(), x)
    found = FrozenLinear(layer, torch.bfloat16)(x)
    assert found.dtype == x.dtype
    assert torch.equal(found, expected.float())
    assert torch.equal(torch.autograd.grad(found.float().square().sum(), x)[0], gradient)


def test_a_setting_that_a_stored_run_does_not_know_had_its_default() -> None:
    stored = {"settings": {"learning_rate": 0.1}, "data": {}, "model": "34"}
    now = {**stored, "settings": {"learning_rate": 0.1, "remember_activations": False}}
    assert changed_inputs(stored, now) == []
    now = {**stored, "settings": {"learning_rate": 0.1, "remember_activations": True}}
    assert changed_inputs(stored, now) == ["remember_activations False -> True"]
