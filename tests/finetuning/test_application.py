"""Variants on PEFT models: Linear and Conv1D layers, what is frozen, and what PEFT loads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from scipy import linalg
from transformers import AutoModelForCausalLM

from asym_analysis.finetuning import Variant, apply_variant, lora_layers


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


def test_a_model_without_lora_layers_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ValueError, match="get_peft_model"):
        apply_variant(AutoModelForCausalLM.from_pretrained(tiny_llama), Variant.parse("hB_0 A_rand"), seed=0)
