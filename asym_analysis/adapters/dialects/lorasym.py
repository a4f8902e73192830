"""LORASYM, the format of the paper's own code: PEFT's names, an r x r matrix lora_E, a flag for each trained factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft import read_peft
from asym_analysis.adapters.dialects.peft.config import PeftConfig, with_alpha
from asym_analysis.adapters.dialects.peft.keys import parse_key
from asym_analysis.errors import AdapterError

__all__ = ["LorasymDialect", "trained_factors"]


@dataclass(frozen=True)
class LorasymDialect:
    """Checkpoints of the code released with "Asymmetry in Low-Rank Adapters of Foundation Models".

    Its layers always hold an r x r matrix lora_E. With `use_E` in the rule the update is scaling · B·E·A, in training
    and when it is merged; without it the released code leaves E out. Which factors were trained comes from
    `update_rule`, whose flags are those that were executed (the README's strategy string `A_rand_hB_zero` executes as
    a trained A and a frozen B).

    References
    ----------
    .. [1] docs/theory.md, section 2.
    """

    name = "lorasym"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether the config names LORASYM, or holds its rule.

        Parameters
        ----------
        checkpoint
            What a container holds.

        Returns
        -------
        bool
            True for a checkpoint of the released code.
        """
        config = checkpoint.config
        return str(config.get("peft_type")).upper() == "LORASYM" or "update_rule" in config

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Read the pairs as PEFT's, and the rule into each module's `trained` and the metadata.

        Parameters
        ----------
        checkpoint
            What a container holds.

        Returns
        -------
        Reading
            The modules, with the account of every tensor.

        Raises
        ------
        AdapterError
            If no pair can be formed, or E is used and not in the file.
        """
        rule = _rule(checkpoint.config.get("update_rule"))
        used = bool(rule.get("use_E"))
        if used and not any(map(_is_middle, checkpoint.tensors)):
            raise AdapterError(
                f"{checkpoint.source}: update_rule has use_E, so that the update is B·E·A, and the file has no lora_E: "
                "save lora_E too"
            )
        kept = {name: tensor for name, tensor in checkpoint.tensors.items() if used or not _is_middle(name)}
        ledger = Ledger(replace(checkpoint, tensors=kept), self.name)
        config = with_alpha(checkpoint.config, checkpoint.alpha)
        reading = read_peft(ledger, PeftConfig({**config, "peft_type": "LORA"}))
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

    Parameters
    ----------
    rule
        The released code's `update_rule`. Where E is used it is taken into A, so that a trained E is a trained A.

    Returns
    -------
    frozenset or None
        ``"A"``, ``"B"`` or both.

    Examples
    --------
    >>> sorted(trained_factors({"update_A": False, "update_B": True}))
    ['B']
    >>> sorted(trained_factors({"update_A": False, "update_B": True, "update_E": True, "use_E": True}))
    ['A', 'B']
    """
    if "update_A" not in rule or "update_B" not in rule:
        return None
    trained = {factor for factor in "AB" if rule[f"update_{factor}"]}
    if rule.get("use_E") and rule.get("update_E"):
        trained.add("A")
    return frozenset(trained)


def _is_middle(name: str) -> bool:
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
