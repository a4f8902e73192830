"""Add the updates of PEFT's less common low-rank tuners: DeLoRA, GraLoRA, VB-LoRA."""

from __future__ import annotations

from collections.abc import Mapping

from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig, number_or_none
from asym_analysis.adapters.factorizations.blocks import BlockwisePair
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import NormalizedPair
from asym_analysis.adapters.factorizations.shared import BankPair
from asym_analysis.errors import AdapterValueError

__all__ = ["add_bank", "add_blockwise", "add_normalized"]


def add_normalized(ledger: Ledger, module: str, parts: Mapping[str, str]) -> None:
    """Add a DeLoRA update.

    Raises
    ------
    AdapterValueError
        If a part is missing: without the base weight's norms, which old versions of PEFT left out, it cannot be formed.
    """
    named = _required(parts, {"A": "delora_A", "B": "delora_B", "strength": "delora_lambda", "norms": "delora_w_norm"})
    ledger.add(module, named, NormalizedPair(), 1.0, frozen=("norms",))


def add_blockwise(ledger: Ledger, config: PeftConfig, module: str, parts: Mapping[str, str]) -> None:
    """Add a GraLoRA update, scaled by alpha over the rank and the hybrid rank together.

    Raises
    ------
    AdapterValueError
        If a part is missing, or A has no three dimensions.
    """
    named = _required(parts, {"A": "gralora_A", "B": "gralora_B"})
    general = {"general_A": "gralora_A_general", "general_B": "gralora_B_general"}
    named |= {part: parts[name] for part, name in general.items() if name in parts}
    shape = ledger.tensors[named["A"]].shape
    if len(shape) != 3 or 0 in shape:
        raise AdapterValueError(f"gralora_A has shape {shape}")
    hybrid = ledger.tensors[named["general_A"]].shape[0] if "general_A" in named else 0
    scaling = 1.0 if config.alpha is None else config.alpha / (shape[2] + hybrid)
    ledger.add(module, named, BlockwisePair(), scaling, layout=Layout(stored_transposed=config.fan_in_fan_out))


def add_bank(
    ledger: Ledger, config: PeftConfig, module: str, parts: Mapping[str, str], shared: Mapping[str, str]
) -> None:
    """Add a VB-LoRA update.

    Raises
    ------
    AdapterValueError
        If a part is missing, or the bank.
    """
    if "vblora_vector_bank" not in shared:
        raise AdapterValueError("VB-LoRA without its vector bank")
    whole = {"logits_A": "vblora_logits_A", "logits_B": "vblora_logits_B"}
    kept = {
        f"{factor}_{part}": f"vblora_logits_{factor}_topk_{part}" for factor in "AB" for part in ("indices", "weights")
    }
    named = _required(parts, whole if "vblora_logits_A" in parts else kept)
    bank = {"bank": ledger.part(shared["vblora_vector_bank"])}
    top = int(number_or_none(config.values, "topk") or 2)
    layout = Layout(stored_transposed=config.fan_in_fan_out)
    ledger.add(module, named, BankPair(top), 1.0, layout=layout, more=bank)
    ledger.share(shared["vblora_vector_bank"], "vector bank of every module")


def _required(parts: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in names.values() if name not in parts]
    if missing:
        raise AdapterValueError(f"{', '.join(missing)} is not there")
    return {part: parts[name] for part, name in names.items()}
