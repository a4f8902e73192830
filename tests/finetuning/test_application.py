"""Variants on PEFT models: Linear and Conv1D layers, what is frozen, and what PEFT loads back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from scipy import linalg
from transformers import AutoModelForCausalLM

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning import Variant, apply_variant, lora_layers, measure_statistics
from asym_analysis.finetuning.application import base_weight


def wrapped(folder: Path, *targets: str, rank: int = 3) -> peft.PeftModel:
    layout = peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=6, target_modules=list(targets), fan_in_fan_out="c_attn" in targets
    )
    return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), layout)


def test_conv1d_weights_are_turned_the_right_way(tiny_gpt2: Path) -> None:
    model = wrapped(tiny_gpt2, "c_attn")
    apply_variant(model, Variant.parse("hB_0 A_V"), seed=0)
    for layer in lora_layers(model).values():
        weight = layer.get_base_layer().weight.detach().double().numpy().T  # Conv1D keeps (d_in, d_out)
        assert weight.shape == (48, 16)
        A = layer.lora_A["default"].weight.detach().double().numpy()
        assert linalg.subspace_angles(A.T, linalg.svd(weight)[2][:3].T).max() < 1e-5
        assert not layer.lora_A["default"].weight.requires_grad
        assert layer.lora_B["default"].weight.requires_grad


def test_left_singular_vectors_of_a_conv1d(tiny_gpt2: Path) -> None:
    model = wrapped(tiny_gpt2, "c_attn")
    apply_variant(model, Variant.parse("B_U hA_0"), seed=0)
    layer = next(iter(lora_layers(model).values()))
    weight = layer.get_base_layer().weight.detach().double().numpy().T
    B = layer.lora_B["default"].weight.detach().double().numpy()
    assert linalg.subspace_angles(B, linalg.svd(weight)[0][:, :3]).max() < 1e-5


def test_the_model_is_unchanged_until_it_is_trained(tiny_llama: Path) -> None:
    ids = torch.tensor([[1, 5, 6, 7]])
    model = wrapped(tiny_llama, "q_proj", "v_proj").eval()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for text in ("hB_0 A_rand", "hB_rand hA_0", "B_U hA_0"):
            apply_variant(model, Variant.parse(text), seed=1)
            assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-6), text


def test_starts_are_shared_by_seed_and_by_module_name(tiny_llama: Path) -> None:
    variant = Variant.parse("hB_0 hA_Km")
    both = apply_variant(wrapped(tiny_llama, "q_proj", "v_proj"), variant, seed=5)
    queries = apply_variant(wrapped(tiny_llama, "q_proj"), variant, seed=5)
    other = apply_variant(wrapped(tiny_llama, "q_proj"), variant, seed=6)
    assert queries.keys() < both.keys()
    for key, value in queries.items():
        assert torch.equal(value, both[key])
        assert torch.equal(value, other[key]) == (".lora_B." in key)


def test_the_initial_factors_load_into_peft(tiny_llama: Path) -> None:
    first = wrapped(tiny_llama, "q_proj")
    initial = apply_variant(first, Variant.parse("hB_rand hA_N"), seed=2)
    second = wrapped(tiny_llama, "q_proj")
    missed = peft.set_peft_model_state_dict(second, initial)
    assert not missed.unexpected_keys
    for name, layer in lora_layers(second).items():
        expected = lora_layers(first)[name]
        assert torch.equal(layer.lora_A["default"].weight, expected.lora_A["default"].weight)
        assert torch.equal(layer.lora_B["default"].weight, expected.lora_B["default"].weight)


def test_starts_are_rounded_to_what_a_file_will_hold(tiny_llama: Path) -> None:
    model = wrapped(tiny_llama, "q_proj")
    initial = apply_variant(model, Variant.parse("hB_0 hA_Km"), seed=2, storage_dtype=torch.float16)
    for key, value in initial.items():
        assert torch.equal(value, value.half().float()), key
    assert np.isfinite(next(iter(initial.values())).numpy()).all()


class Mixed(torch.nn.Module):
    """One layer of each kind that PEFT adapts with two factors."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.linear = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 6)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.convolution = torch.nn.Conv1d(6, 4, 3, groups=groups)

    def forward(self, ids: torch.Tensor) -> Any:
        hidden = self.embed(ids)
        hidden = hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0]
        output = self.convolution(self.linear(hidden).transpose(1, 2))
        return SimpleNamespace(loss=output.square().mean(), output=output)


KINDS = ["embed", "linear", "attention", "convolution"]


@pytest.mark.parametrize(
    "text", ["hB_0 A_rand", "hB_0 A_V", "B_U hA_0", "hB_rand hA_0", "hB_0 A_X", "B_Y hA_0", "hB_0 A_G"]
)
def test_every_kind_of_layer_is_initialized_and_frozen(text: str) -> None:
    # The output map inside attention is never called, so that its inputs cannot be measured.
    kinds = [kind for kind in KINDS if kind != "attention" or ("X" not in text and "Y" not in text)]
    model = peft.get_peft_model(Mixed(), peft.LoraConfig(r=2, target_modules=kinds))
    ids = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        before = Mixed()(ids).output
    variant = Variant.parse(text)
    statistics = measure_statistics(model, variant, [{"ids": ids}])
    assert all(parameter.requires_grad == ("lora_" in name) for name, parameter in model.named_parameters())
    initial = apply_variant(model, variant, seed=0, statistics=statistics)
    assert {key.split(".lora_")[0].removeprefix("base_model.model.") for key in initial} >= set(kinds)
    with torch.no_grad():
        assert torch.allclose(model(ids).output, before, atol=1e-5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.requires_grad == (variant.A if "A" in name.split("lora_")[1] else variant.B).trained, name
    for layer in lora_layers(model).values():
        weight = base_weight("", layer)
        frozen = [key for key in initial if "_A" in key] if not variant.A.trained else []
        assert len(weight.shape) == 2
        assert all(torch.linalg.matrix_rank(initial[key].flatten(1).float()) == 2 for key in frozen)


def test_the_first_gradient_is_the_sum_over_inputs() -> None:
    model = peft.get_peft_model(Mixed(), peft.LoraConfig(r=2, target_modules=KINDS))
    ids = torch.arange(14).reshape(2, 7)
    found = measure_statistics(model, Variant.parse("hB_0 A_G"), [{"ids": ids}])
    plain = Mixed()
    plain(ids).loss.backward()
    expected = {
        "embed": plain.embed.weight.grad.T,
        "linear": plain.linear.weight.grad,
        "attention": plain.attention.in_proj_weight.grad,
        "convolution": plain.convolution.weight.grad.flatten(1),
    }
    for name, gradient in expected.items():
        assert torch.allclose(found[name].gradient, gradient, atol=1e-6), name


def test_layers_whose_update_is_not_one_matrix_are_refused_by_name() -> None:
    model = peft.get_peft_model(Mixed(groups=2), peft.LoraConfig(r=2, target_modules=["convolution"]))
    with pytest.raises(AdapterError, match="module convolution is a convolution in 2 groups"):
        apply_variant(model, Variant.parse("hB_0 A_rand"), 0)
    model = peft.get_peft_model(Mixed(), peft.LoraConfig(r=2, target_parameters=["linear.weight"]))
    with pytest.raises(AdapterError, match="module linear adapts a bare parameter"):
        apply_variant(model, Variant.parse("hB_0 A_rand"), 0)


def test_a_rank_above_the_width_is_one_sentence() -> None:
    model = peft.get_peft_model(Mixed(), peft.LoraConfig(r=9, target_modules=["linear"]))
    with pytest.raises(AdapterError, match="module linear: rank 9 is above 8, the width of the inputs"):
        apply_variant(model, Variant.parse("hB_0 A_rand"), 0)


def test_what_an_initialization_needs_is_named() -> None:
    model = peft.get_peft_model(Mixed(), peft.LoraConfig(r=2, target_modules=["linear"]))
    with pytest.raises(AdapterError, match=r"module linear: .*'principal' of A needs the module's inputs"):
        apply_variant(model, Variant.parse("hB_0 A_X"), 0)


def test_a_model_without_lora_layers_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ValueError, match="get_peft_model"):
        apply_variant(AutoModelForCausalLM.from_pretrained(tiny_llama), Variant.parse("hB_0 A_rand"), seed=0)


def test_named_modules_have_a_variant_of_their_own(tiny_llama: Path) -> None:
    model = wrapped(tiny_llama, "q_proj", "k_proj")
    others = {"layers.0.self_attn.k_proj": Variant.parse("B_rand hA_0")}
    apply_variant(model, Variant.parse("hB_0 A_rand"), seed=0, others=others)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name}
    of_A = {name.split(".lora_A")[0].split("layers.")[1]: value for name, value in trained.items() if "lora_A" in name}
    assert [name for name, value in of_A.items() if value] == ["0.self_attn.k_proj"]
    assert all(trained[name] != trained[name.replace("lora_A", "lora_B")] for name in trained if "lora_A" in name)
    own = next(layer for name, layer in lora_layers(model).items() if name.endswith("layers.0.self_attn.k_proj"))
    assert not own.lora_A["default"].weight.any()
    B = own.lora_B["default"].weight
    assert torch.allclose(B.T @ B, torch.eye(3), atol=1e-6)
    with pytest.raises(AdapterError, match=r"no LoRA layer is called layers\.0\.mlp"):
        apply_variant(model, Variant.parse("hB_0 A_rand"), seed=0, others={"layers.0.mlp": Variant.parse("hB_0 hA_N")})
