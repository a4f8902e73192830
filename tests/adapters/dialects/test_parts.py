"""Every trained number of a module is a field: its tensor, with its own dtype and shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from asym_analysis.adapters.adapter import Adapter

CASES: dict[str, tuple[Any, set[str], set[str]]] = {
    "LoRA": (peft.LoraConfig(r=3, target_modules=["query", "value"]), {"A", "B"}, set()),
    "DoRA": (peft.LoraConfig(r=3, use_dora=True, target_modules=["query", "value"]), {"A", "B", "magnitude"}, set()),
    "AdaLoRA": (peft.AdaLoraConfig(init_r=3, total_step=9, target_modules=["query", "value"]), {"A", "B", "E"}, set()),
    "VeRA": (peft.VeraConfig(r=3, target_modules=["query", "value"]), {"b", "d"}, {"A", "B"}),
    "VB-LoRA": (
        peft.VBLoRAConfig(r=3, num_vectors=5, vector_length=4, target_modules=["query", "value"]),
        {"logits_A", "logits_B", "bank"},
        set(),
    ),
    "LoHa": (peft.LoHaConfig(r=2, target_modules=["query", "value"]), {"w1_a", "w1_b", "w2_a", "w2_b"}, set()),
    "DeLoRA": (peft.DeloraConfig(r=2, target_modules=["query", "value"]), {"A", "B", "strength"}, {"norms"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_trained_parts_are_what_peft_trains(
    case: str, tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Callable[..., None]
) -> None:
    config, trained, frozen = CASES[case]
    torch.manual_seed(0)
    model = peft.get_peft_model(nn.ModuleDict({"query": nn.Linear(8, 8), "value": nn.Linear(8, 8)}), config)
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    tensors = {}
    for module in adapter:
        source = adapter.source(module)
        assert set(source.parts) == trained | frozen
        assert set(source.trained_parts()) == trained
        tensors |= {part.tensor: part.size for part in source.trained_parts().values()}
        doubled = {name: 2 * part.read() for name, part in source.trained_parts("B").items()}
        assert not torch.equal(source.read_with(doubled).delta(), adapter[module].delta()) or case in ("DoRA", "DeLoRA")
        assert torch.equal(source.read_with({}).delta(), adapter[module].delta())
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(tensors.values()) == numbers, "each tensor once, shared or not"


def test_a_part_keeps_its_own_dtype(read: Callable[..., Adapter]) -> None:
    tensors = {
        "q.lora_A.weight": torch.ones(2, 8, dtype=torch.float16),
        "q.lora_B.weight": torch.ones(4, 2, dtype=torch.float32),
        "q.lora_magnitude_vector": torch.ones(4, dtype=torch.bfloat16),
    }
    source = read(tensors, {"peft_type": "LORA", "r": 2, "lora_alpha": 2}).source("q")
    dtypes = {name: part.dtype for name, part in source.parts.items()}
    assert dtypes == {"A": "float16", "B": "float32", "magnitude": "bfloat16"}
