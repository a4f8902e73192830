"""LORASYM, the format of the paper's own code: PEFT's names, an unused lora_E, and a rule of what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft import read_peft
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.dialects.peft.keys import parse_key
from asym_analysis.errors import AdapterError

__all__ = ["LorasymDialect", "trained_factors"]


@dataclass(frozen=True)
class LorasymDialect:
    """Checkpoints of the code released with "Asymmetry in Low-Rank Adapters of Foundation Models".

    Its layers always hold an r x r matrix lora_E. Unless the rule says `use_E`, the forward pass leaves it out, and so
    does this reading. Which factors were trained comes from `update_rule`, whose flags are those that were executed
    (the README's strategy string `A_rand_hB_zero` executes as a trained A and a frozen B; theory notes, section 2).
    """

    name = "lorasym"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether the config names LORASYM, or holds its rule."""
        config = checkpoint.config
        return str(config.get("peft_type")).upper() == "LORASYM" or "update_rule" in config

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Read the pairs as PEFT's, and the rule into each module's `trained` and the metadata."""
        rule = _rule(checkpoint.config.get("update_rule"))
        if rule.get("use_E"):
            raise AdapterError(
                f"{checkpoint.source}: update_rule has use_E, a variant whose r x r matrix the released code applies "
                "in training only; its update is not B·A"
            )
        kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not _is_unused(name)}
        ledger = Ledger(replace(checkpoint, tensors=kept), self.name)
        reading = read_peft(ledger, PeftConfig({**checkpoint.config, "peft_type": "LORA"}))
        trained = trained_factors(rule)
        unused = dict.fromkeys(checkpoint.tensors.keys() - kept, "lora_E is not used where update_rule has use_E false")
        ignored = {**reading.coverage.ignored, **{name: unused[name] for name in checkpoint.tensors if name in unused}}
        return replace(
            reading,
            modules={name: replace(source, trained=trained) for name, source in reading.modules.items()},
            coverage=replace(reading.coverage, ignored=ignored),
            metadata={**reading.metadata, "peft_type": "LORASYM"} | _described(rule, trained),
        )


def trained_factors(rule: Mapping[str, Any]) -> frozenset[str] | None:
    """The factors that training changed, or None where the rule does not say.

    Examples
    --------
    >>> sorted(trained_factors({"update_A": False, "update_B": True}))
    ['B']
    """
    if "update_A" not in rule or "update_B" not in rule:
        return None
    return frozenset(factor for factor in "AB" if rule[f"update_{factor}"])


def _is_unused(name: str) -> bool:
    key = parse_key(name)
    return key is not None and key.part == "E"


def _rule(rule: object) -> Mapping[str, Any]:
    """The rule as executed: flags as they are, or a strategy string taken apart by position, B's two tokens first."""
    if isinstance(rule, Mapping):
        return rule
    tokens = rule.split("_") if isinstance(rule, str) else []
    if len(tokens) != 4:
        return {}
    return {
        "update_B": tokens[0].startswith("h"),
        "B_init": tokens[1],
        "update_A": tokens[2].startswith("h"),
        "A_init": tokens[3],
    }


def _described(rule: Mapping[str, Any], trained: frozenset[str] | None) -> dict[str, Any]:
    described = {
        "trained": None if trained is None else "".join(sorted(trained)) or "none",
        "A_init": rule.get("A_init"),
        "B_init": rule.get("B_init"),
    }
    return {key: value for key, value in described.items() if value is not None}
