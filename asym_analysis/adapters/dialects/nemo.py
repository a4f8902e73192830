"""NVIDIA NeMo and Megatron Bridge: `linear_in` and `linear_out` under an adapter module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.errors import AdapterValueError

__all__ = ["NemoDialect"]

_KEY = re.compile(
    r"^(?:module\.)*(.+)\.(?:adapter_layer\.(lora_\w+_adapter(?:\.\w+_adapter)?)|adapter(?:\.adapter_(\w+))?)"
    r"\.linear_(in|out)\.weight$"
)
_ADAPTERS = {
    "lora_kqv_adapter": "linear_qkv",
    "lora_unfused_kqv_adapter": "linear_qkv",
    "lora_q_adapter": "linear_q",
    "lora_kv_adapter": "linear_kv",
    "lora_dense_attention_adapter": "linear_proj",
    "lora_hto4h_adapter": "linear_fc1",
    "lora_unfused_hto4h_adapter": "linear_fc1",
    "lora_4htoh_adapter": "linear_fc2",
}


@dataclass(frozen=True)
class NemoDialect:
    """`....self_attention.adapter_layer.lora_kqv_adapter.linear_in.weight`, `....linear_qkv.adapter.linear_in.weight`.

    linear_in is (rank, d_in), linear_out (d_out, rank). Files of one tensor-parallel rank only are refused where the
    two halves do not multiply.
    """

    name = "nemo"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether linear_in or linear_out sits under an adapter."""
        return any(_KEY.match(name) for name in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the two; the scale is alpha / dim of the config, or 1 without one."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            key = _KEY.match(tensor)
            if key is None:
                ledger.keep(tensor, tensor, "trained beside the adapter")
            else:
                groups.setdefault(_module(key), {})["A" if key[4] == "in" else "B"] = tensor
        ledger.require_both(groups)
        config = PeftConfig(_as_peft(checkpoint.config))
        for module, parts in groups.items():
            shape = ledger.tensors[parts["A"]].shape if "A" in parts else ()
            try:
                if parts.keys() != {"A", "B"} or len(shape) != 2 or not shape[0]:
                    raise AdapterValueError("linear_in and linear_out are not both there, as matrices")
                ledger.add(module, parts, Pair(), config.scaling(module, shape[0]))
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        ledger.scaling_from(config.scaling_source, recorded=config.records_alpha)
        return ledger.reading(config.metadata)


def _module(key: re.Match[str]) -> str:
    parent, old, part = key[1], key[2], key[3]
    if old is None:
        return parent if part is None else f"{parent}.{part}"
    adapter, _, inner = old.partition(".")
    name = f"{parent}.{_ADAPTERS.get(adapter, adapter)}"
    return f"{name}.{inner.removesuffix('_adapter')}" if inner else name


def _as_peft(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dim and alpha of a NeMo config, whichever section holds them."""
    for section in ("lora_tuning", "peft"):
        inner = config.get(section)
        if isinstance(inner, Mapping):
            return _as_peft(inner)
    return {**config, "r": config.get("r", config.get("dim", config.get("adapter_dim")))}
