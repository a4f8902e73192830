"""llama.cpp's GGUF adapters: `blk.0.attn_q.weight.lora_a`, alpha among the key-value pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import number_or_none
from asym_analysis.adapters.factorizations.blocks import StackedExpert
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import Pair

__all__ = ["GgufDialect"]

_KEY = re.compile(r"^(.+)\.weight\.lora_(a|b)$")


@dataclass(frozen=True)
class GgufDialect:
    """`<tensor>.weight.lora_a` (rank, d_in) and `.lora_b` (d_out, rank); three-dimensional for stacked experts.

    The scale is `adapter.lora.alpha` over the rank. `token_embd` has its lora_a transposed.
    """

    name = "gguf"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a tensor is named `....weight.lora_a`."""
        return any(_KEY.match(name) for name in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors and scale them by the header's alpha."""
        ledger = Ledger(checkpoint, self.name)
        alpha = number_or_none(checkpoint.header, "adapter.lora.alpha")
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            key = _KEY.match(tensor)
            if key is None:
                ledger.keep(tensor, tensor, "trained beside the adapter")
            else:
                groups.setdefault(key[1], {})[key[2].upper()] = tensor
        ledger.require_both(groups)
        for module, parts in groups.items():
            if parts.keys() == {"A", "B"}:
                _add_module(ledger, module, parts, alpha)
            else:
                ledger.refuse(parts.values(), f"{module}: lora_{''.join(parts).lower()} without its partner")
        base = checkpoint.header.get("general.base_model.0.name") or checkpoint.header.get("general.name")
        ledger.scaling_from("adapter.lora.alpha" if alpha else "1: no alpha is recorded", recorded=alpha is not None)
        return ledger.reading({"base_model": str(base)} if base else {})


def _add_module(ledger: Ledger, module: str, parts: dict[str, str], alpha: float | None) -> None:
    B = ledger.tensors[parts["B"]].shape
    rank = B[-1] if B else 0
    scaling = 1.0 if alpha is None or not rank else alpha / rank
    if len(B) == 3:
        for expert in range(B[0]):
            ledger.add(f"{module}.{expert}", parts, StackedExpert(expert), scaling)
    elif module == "token_embd":
        ledger.add(module, parts, Pair(a_transposed=True), scaling, layout=Layout(stored_transposed=True))
    else:
        ledger.add(module, parts, Pair(), scaling)
