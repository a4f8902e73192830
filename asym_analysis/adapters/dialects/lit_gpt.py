"""lit-gpt and LitGPT: loralib's parameters, with query, key and value stacked in one pair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig, number_or_none
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.errors import AdapterValueError

__all__ = ["LitGptDialect", "StackedPart"]

_KEY = re.compile(
    r"^(?:model\.)?((?:transformer\.h\.\d+\.(?:attn\.(?:attn|qkv|proj)|mlp\.(?:fc|fc_1|fc_2|proj|experts\.\d+\.\w+))|lm_head))"
    r"\.lora_(A|B)$"
)
_NAMES = ("query", "key", "value")


@dataclass(frozen=True)
class StackedPart:
    """One part of a stack of pairs: the rows of A and the rows of B that belong to it.

    Examples
    --------
    >>> import torch
    >>> A, B = StackedPart(1, 2, (4, 6))({"A": torch.arange(8.0).reshape(4, 2), "B": torch.arange(12.0).reshape(6, 2)})
    >>> A[0].tolist(), B[0].tolist()
    ([4.0, 5.0], [8.0, 9.0])
    """

    index: int
    rank: int
    rows: tuple[int, int]

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the part's (A, B)."""
        first = self.index * self.rank
        return tensors["A"][first : first + self.rank], tensors["B"][slice(*self.rows)]


@dataclass(frozen=True)
class LitGptDialect:
    """`transformer.h.0.attn.attn.lora_A` (rank x enabled, d_in), `....lora_B` (rows of the enabled, rank).

    Query, key and value become modules of their own: the fused weight's rows are ordered differently in different
    versions, the three updates are not. The config gives `lora_r`, `lora_alpha`, which of `lora_query`, `lora_key`,
    `lora_value` were on, and the heads where key and value are smaller than query.
    """

    name = "lit-gpt"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a parameter lora_A or lora_B sits in a LitGPT module."""
        return any(_KEY.match(name) for name in checkpoint.tensors)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Split the stacks; without an alpha in the config the scale is taken for 1, and the metadata says so."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            key = _KEY.match(tensor)
            if key is not None:
                groups.setdefault(key[1], {})[key[2]] = tensor
            elif tensor.endswith((".linear.weight", ".linear.bias")) or ".lora_" not in tensor:
                ledger.ignore(tensor, "frozen base weight")
        ledger.require_both(groups)
        config = PeftConfig(_as_peft(checkpoint.config))
        for module, parts in groups.items():
            try:
                _add_module(ledger, config, module, parts)
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        ledger.scaling_from(config.scaling_source, recorded=config.records_alpha)
        return ledger.reading(config.metadata)


def _add_module(ledger: Ledger, config: PeftConfig, module: str, parts: Mapping[str, str]) -> None:
    if parts.keys() != {"A", "B"}:
        raise AdapterValueError(f"{', '.join(parts)} without its partner")
    A, B = (ledger.tensors[parts[part]].shape for part in "AB")
    if len(A) != 2 or len(B) != 2 or 0 in A + B:
        raise AdapterValueError(f"A {A} and B {B} are no matrices")
    if not module.endswith((".attn.attn", ".attn.qkv")):
        ledger.add(module, parts, Pair(), config.scaling(module, A[0]))
        return
    rank = B[1]
    count = A[0] // rank
    enabled = _enabled(config.values, count)
    sizes = _row_counts(config.values, enabled, d_in=A[1], rows=B[0])
    start = 0
    for index, (name, size) in enumerate(zip(enabled, sizes, strict=True)):
        part = StackedPart(index, rank, (start, start + size))
        ledger.add(f"{module}.{name}", parts, part, config.scaling(module, rank))
        start += size


def _enabled(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    flagged = tuple(name for name in _NAMES if config.get(f"lora_{name}"))
    if len(flagged) == count:
        return flagged
    if flagged or count not in (2, 3):
        raise AdapterValueError(f"{count} stacked pairs, but the config enables {', '.join(flagged) or 'none by name'}")
    return _NAMES if count == 3 else ("query", "value")


def _row_counts(config: Mapping[str, Any], enabled: tuple[str, ...], *, d_in: int, rows: int) -> list[int]:
    heads = number_or_none(config, "n_head")
    if heads:
        groups = number_or_none(config, "n_query_groups") or heads
        size = number_or_none(config, "head_size") or (number_or_none(config, "n_embd") or d_in) / heads
        counts = [int(size * (heads if name == "query" else groups)) for name in enabled]
    elif rows == d_in * len(enabled) or len(enabled) == 1:
        counts = [rows // len(enabled)] * len(enabled)
    else:
        counts = []
    if sum(counts) != rows:
        raise AdapterValueError(
            f"{rows} rows cannot be split into {', '.join(enabled)}: n_head, n_query_groups and head_size are missing "
            "from the config"
        )
    return counts


def _as_peft(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "r": config.get("r", config.get("lora_r"))}
