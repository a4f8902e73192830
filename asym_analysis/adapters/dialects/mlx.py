"""MLX (mlx-lm, mlx-examples): factors transposed, the scale given outright."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import number_or_none
from asym_analysis.adapters.factorizations.blocks import StackedExpert
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.module_names import projection_of

__all__ = ["MlxDialect"]

_KEY = re.compile(r"^(.+)\.(lora_a|lora_b|m)$")
_UNKNOWN = "1: no scale is recorded"
_PARTS = {"lora_a": "A", "lora_b": "B", "m": "magnitude"}
_QUANTIZED = re.compile(r"\.lora_[ab]_(?:scales|biases)$")
_EMBEDDINGS = frozenset({"embed_tokens", "wte", "embedding", "embeddings", "word_embeddings", "tok_embeddings"})


@dataclass(frozen=True)
class MlxDialect:
    """`....lora_a` (d_in, rank) and `....lora_b` (rank, d_out), in npz or safetensors; DoRA's `m`.

    Mixture-of-experts layers hold a pair for each expert, in three dimensions: one module for each.
    """

    name = "mlx"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether bare `lora_a` and `lora_b`, lower case and without `.weight`, end the names."""
        return any(name.endswith((".lora_a", ".lora_b")) and ".weight." not in name for name in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Turn the factors round; without a config the scale is taken for 1, and the metadata says so."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            key = _KEY.match(tensor)
            if _QUANTIZED.search(tensor):
                ledger.refuse(tensor, "quantized factors: dequantize them with MLX first")
            elif key is not None:
                groups.setdefault(key[1], {})[_PARTS[key[2]]] = tensor
            else:
                ledger.keep(tensor, tensor, "trained beside the adapter")
        ledger.require_both(groups)
        scaling, how = _scaling(checkpoint.config)
        for module, parts in groups.items():
            if {"A", "B"} <= parts.keys():
                _add_module(ledger, module, parts, scaling)
            else:
                ledger.refuse(parts.values(), f"{module}: {', '.join(parts)} without its partner")
        metadata = {name: checkpoint.config.get(name) for name in ("model", "seed")}
        named = {"base_model": metadata["model"], "seed": metadata["seed"]}
        ledger.scaling_from(how, recorded=how != _UNKNOWN)
        return ledger.reading({key: value for key, value in named.items() if value is not None})


def _add_module(ledger: Ledger, module: str, parts: Mapping[str, str], scaling: float) -> None:
    B = ledger.tensors[parts["B"]].shape
    if len(B) != 3:
        layout = Layout(stored_transposed=projection_of(module) in _EMBEDDINGS)
        ledger.add(module, parts, Pair(a_transposed=True, b_transposed=True), scaling, layout=layout)
        return
    for expert in range(B[0]):
        ledger.add(f"{module}.{expert}", parts, StackedExpert(expert), scaling)


def _scaling(config: Mapping[str, Any]) -> tuple[float, str]:
    """The scale, and where it comes from.

    mlx-lm's config holds an alpha up to April 2025, but only the versions from April to June 2024 multiplied by it.
    """
    parameters = config.get("lora_parameters")
    values = parameters if isinstance(parameters, Mapping) else config
    scale, alpha = number_or_none(values, "scale"), number_or_none(values, "alpha", "lora_alpha")
    rank = number_or_none(values, "rank", "r", "lora_rank")
    if scale is not None:
        old = "lora_layers" in config and alpha is not None
        return scale, "adapter config" + (
            "; mlx-lm before June 2024 multiplied it by alpha / rank, later versions do not" if old else ""
        )
    if alpha is not None and rank:
        return alpha / rank, "adapter config: alpha / rank"
    return 1.0, _UNKNOWN
