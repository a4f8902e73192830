"""torchtune (and torchtitan): `lora_a.weight`, `lora_b.weight`, in PEFT's orientation under Meta's module names."""

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

__all__ = ["TorchtuneDialect"]

_KEY = re.compile(r"^(.+)\.(lora_a|lora_b)(?:\.weight)$|^(.+)\.(magnitude)$")
_PARTS = {"lora_a": "A", "lora_b": "B", "magnitude": "magnitude"}


@dataclass(frozen=True)
class TorchtuneDialect:
    """`layers.0.attn.q_proj.lora_a.weight` (rank, d_in), `....lora_b.weight` (d_out, rank), DoRA's `magnitude`."""

    name = "torchtune"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether `lora_a.weight` or `lora_b.weight` ends a name."""
        return any(name.endswith((".lora_a.weight", ".lora_b.weight")) for name in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors; without a config the scale is taken for 1, and the metadata says so."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            key = _KEY.match(tensor)
            if key is None:
                _account_for(ledger, tensor)
            else:
                groups.setdefault(key[1] or key[3], {})[_PARTS[key[2] or key[4]]] = tensor
        ledger.require_both(groups)
        config = PeftConfig(_flat(checkpoint.config))
        for module, parts in groups.items():
            if {"A", "B"} <= parts.keys():
                _add_module(ledger, config, module, parts)
            else:
                ledger.refuse(parts.values(), f"{module}: {', '.join(parts)} without its partner")
        ledger.scaling_from(config.scaling_source, recorded=config.records_alpha)
        return ledger.reading(config.metadata)


def _add_module(ledger: Ledger, config: PeftConfig, module: str, parts: Mapping[str, str]) -> None:
    shape = ledger.tensors[parts["A"]].shape
    try:
        scaling = config.scaling(module, shape[0]) if shape and shape[0] else 1.0
    except AdapterValueError as error:
        ledger.refuse(parts.values(), f"{module}: {error}")
    else:
        ledger.add(module, parts, Pair(), scaling)


def _account_for(ledger: Ledger, tensor: str) -> None:
    if tensor.rpartition(".")[2] in ("weight", "bias", "scale") and f"{tensor.rpartition('.')[0]}.lora_a.weight" in (
        ledger.tensors
    ):
        ledger.ignore(tensor, "frozen base weight")
    else:
        ledger.keep(tensor, tensor, "trained beside the adapter")


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Torchtune's recipe config (`model.lora_rank`, `model.lora_alpha`) or the adapter config that it writes."""
    model = config.get("model")
    values = {**config, **(model if isinstance(model, Mapping) else {})}
    return {**values, "r": values.get("r", values.get("lora_rank"))}
