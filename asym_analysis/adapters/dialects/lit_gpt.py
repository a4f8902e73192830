"""lit-gpt and LitGPT: loralib's parameters, with query, key and value stacked in one pair."""

from __future__ import annotations

from dataclasses import dataclass

from asym_analysis.adapters.dialects.grammar import Grammar
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.factorizations.blocks import StackedPart
from asym_analysis.adapters.facts import Facts
from asym_analysis.errors import AdapterValueError

__all__ = ["LIT_GPT", "LitGptGrammar"]

_MODULE = (
    r"(?:model\.)?(?P<module>transformer\.h\.\d+\.(?:attn\.(?:attn|qkv|proj)"
    r"|mlp\.(?:fc|fc_1|fc_2|proj|gate|experts\.\d+\.\w+))|lm_head)"
)
_NAMES = ("query", "key", "value")
_SIZES = "give its model_config.yaml with config= to load_adapter, or --config to asym"


@dataclass(frozen=True)
class LitGptGrammar(Grammar):
    """`transformer.h.0.attn.attn.lora_A` (rank x enabled, d_in), `....lora_B` (rows of the enabled, rank).

    Query, key and value become modules of their own: the fused weight's rows are ordered differently in different
    versions, the three updates are not. LitGPT writes `hyperparameters.yaml` (`lora_r`, `lora_alpha`, which of
    `lora_query`, `lora_key`, `lora_value` were on) and `model_config.yaml` (the heads, where key and value are smaller
    than query).
    """

    def add(self, ledger: Ledger, facts: Facts, module: str, parts: dict[str, str], turned: str) -> None:
        """Add a plain pair, or each part of a stack."""
        if not module.endswith((".attn.attn", ".attn.qkv")) or not {"A", "B"} <= parts.keys():
            super().add(ledger, facts, module, parts, turned)
            return
        A, B = (ledger.tensors[parts[part]].shape for part in "AB")
        if len(A) != 2 or len(B) != 2 or 0 in A + B:
            raise AdapterValueError(f"A {A} and B {B} are not matrices")
        rank = B[1]
        scaling = self.scale(ledger, facts, module, rank)
        enabled = _enabled(ledger, facts, A[0] // rank)
        first = 0
        for index, (name, size) in enumerate(_row_counts(ledger, facts, enabled, d_in=A[1], rows=B[0]).items()):
            ledger.add(f"{module}.{name}", parts, StackedPart(index, rank, (first, first + size)), scaling)
            first += size


def _enabled(ledger: Ledger, facts: Facts, count: int) -> tuple[str, ...]:
    flagged = tuple(name for name in _NAMES if facts.at(f"lora_{name}"))
    if len(flagged) == count:
        return flagged
    if flagged or count not in (2, 3):
        raise AdapterValueError(f"{count} stacked pairs, but the config enables {', '.join(flagged) or 'none by name'}")
    if count == 2:
        ledger.assume(
            "layout",
            "query and value, LitGPT's default, for the two pairs of each fused projection",
            "give its hyperparameters.yaml with config= to load_adapter, or --config to asym",
        )
    return _NAMES if count == 3 else ("query", "value")


def _row_counts(ledger: Ledger, facts: Facts, enabled: tuple[str, ...], *, d_in: int, rows: int) -> dict[str, int]:
    heads = facts.number("n_head")
    if heads:
        groups = facts.number("n_query_groups") or heads
        size = facts.number("head_size") or (facts.number("n_embd") or d_in) / heads
        counts = {name: int(size * (heads if name == "query" else groups)) for name in enabled}
    elif len(enabled) == 1:
        return {enabled[0]: rows}
    else:
        counts = dict.fromkeys(enabled, d_in)
        if rows == d_in * len(enabled):
            ledger.assume("layout", "as many rows for key and value as for query in a fused projection", _SIZES)
    if sum(counts.values()) != rows:
        raise AdapterValueError(
            f"{rows} rows cannot be split into {', '.join(enabled)} without n_head, n_query_groups and head_size: "
            f"{_SIZES}"
        )
    return counts


LIT_GPT = LitGptGrammar(
    name="lit-gpt",
    A=_MODULE + r"\.lora_A",
    B=_MODULE + r"\.lora_B",
    alpha_at=("lora_alpha", "alpha"),
    rank_at=("lora_r", "r"),
    config_names=("hyperparameters.yaml", "model_config.yaml", "lit_config.json"),
    hint="LitGPT records it in hyperparameters.yaml, and lit-gpt's scripts set alpha = 16",
)
