"""PEFT's own checkpoints: `lora_A`, `lora_B`, scaled by what adapter_config.json says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.factors import Layout, pair_source
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft_keys import match_pattern, module_name, parse_key

__all__ = ["PeftDialect"]


@dataclass(frozen=True)
class PeftDialect:
    """Checkpoints written by `PeftModel.save_pretrained`, or the state dict of a PEFT-wrapped model."""

    name: str = "peft"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a tensor carries a part that only PEFT names."""
        return any(parse_key(key) is not None for key in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors of each module and scale them as PEFT does."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[tuple[str | None, str], dict[str, str]] = {}
        paths: dict[str, str] = {}
        for key in checkpoint.tensors:
            parsed = parse_key(key)
            if parsed is None:
                _keep_or_ignore(ledger, key)
            elif parsed.leaf == "bias":
                ledger.keep(key, f"{parsed.module}.{parsed.part}.bias", f"bias of {parsed.part} of {parsed.module}")
            else:
                groups.setdefault((parsed.adapter, parsed.module), {})[parsed.part] = key
                paths[parsed.module] = parsed.path
        for (_, module), parts in groups.items():
            _add_pair(ledger, checkpoint.config, module, paths[module], parts)
        return ledger.reading(_metadata(checkpoint.config))


def _add_pair(ledger: Ledger, config: Mapping[str, Any], module: str, path: str, parts: dict[str, str]) -> None:
    embedding = "lora_embedding_A" in parts
    name_A, name_B = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if name_A not in parts or name_B not in parts:
        present = ", ".join(parts)
        ledger.refuse(parts.values(), f"{present} without its partner")
        return
    tensors = ledger.checkpoint.tensors
    A, B = tensors[parts[name_A]], tensors[parts[name_B]]
    rank = A.shape[0]
    magnitude = parts.get("lora_magnitude_vector")
    stored_transposed = embedding or bool(config.get("fan_in_fan_out"))
    weight_shape = (B.shape[0], *A.shape[1:]) if len(A.shape) > 2 else None
    source = pair_source(
        A,
        B,
        scaling_of(config, path, rank),
        layout=Layout(weight_shape, stored_transposed and weight_shape is None),
        magnitude=tensors[magnitude] if magnitude else None,
    )
    names = {"A": parts[name_A], "B": parts[name_B]}
    ledger.add_module(module, source, names | ({"magnitude": magnitude} if magnitude else {}))


def scaling_of(config: Mapping[str, Any], path: str, rank: int) -> float:
    """alpha/r, or alpha/sqrt(r) for rank-stabilized LoRA, with the alpha that PEFT's patterns give this module."""
    patterns = config.get("alpha_pattern") or {}
    pattern = match_pattern(patterns, path)
    alpha = patterns[pattern] if pattern is not None else config.get("lora_alpha", rank)
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _keep_or_ignore(ledger: Ledger, key: str) -> None:
    name = module_name(key)
    if ".base_layer." in key or ".original_module." in key:
        ledger.ignore(key, "frozen copy of a base weight")
    else:
        ledger.keep(key, re.sub(r"\.modules_to_save(?:\.[^.]+)?\.", ".", name), "trained beside the adapter")


def _metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    known = {"base_model": config.get("base_model_name_or_path"), "peft_type": config.get("peft_type")}
    known |= {"task_type": config.get("task_type")}
    return {key: value for key, value in known.items() if value is not None}
