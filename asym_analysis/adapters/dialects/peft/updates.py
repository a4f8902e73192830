"""Which factorization the tensors of one module call for, and at which scale: every low-rank tuner of PEFT."""

from __future__ import annotations

from collections.abc import Mapping

from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.lycoris import add_hadamard, add_kronecker
from asym_analysis.adapters.dialects.peft.config import PeftConfig, number_or_none
from asym_analysis.adapters.dialects.peft.tuners import add_bank, add_blockwise, add_normalized
from asym_analysis.adapters.factorizations.blocks import BlockDiagonalPair, MergedLinear
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.factorizations.pairs import DiagonalPair, Pair, PooledPair
from asym_analysis.errors import AdapterValueError

__all__ = ["add_module"]


def add_module(
    ledger: Ledger,
    config: PeftConfig,
    module: str,
    path: str,
    parts: Mapping[str, str],
    shared: Mapping[str, str],
) -> None:
    """Add the update that a module's tensors make, or refuse them with the reason.

    Parameters
    ----------
    path
        The module's name as the config's patterns see it.
    parts
        Part, as `parse_key` names it, -> tensor's name.
    shared
        The same for tensors that all modules share.
    """
    try:
        if any(part.startswith("hada_") for part in parts):
            add_hadamard(ledger, module, parts, lambda rank: config.scaling(path, rank))
        elif any(part.startswith("lokr_") for part in parts):
            add_kronecker(ledger, module, parts, lambda rank: config.scaling(path, rank or config.rank_of(path) or 1))
        elif any(part.startswith("delora_") for part in parts):
            add_normalized(ledger, module, parts)
        elif any(part.startswith("gralora_") for part in parts):
            add_blockwise(ledger, config, module, parts)
        elif any(part.startswith("vblora_") for part in parts):
            add_bank(ledger, config, module, parts, shared)
        else:
            _add_pair(ledger, config, module, path, dict(parts))
    except AdapterValueError as error:
        ledger.refuse(parts.values(), f"{module}: {error}")


def _add_pair(ledger: Ledger, config: PeftConfig, module: str, path: str, parts: dict[str, str]) -> None:
    embedding = "embedding_A" in parts or "embedding_B" in parts
    if embedding:
        parts = {part.removeprefix("embedding_"): tensor for part, tensor in parts.items()}
    if "A" not in parts or "B" not in parts:
        have, lack = ("A", "B") if "A" in parts else ("B", "A") if "B" in parts else (", ".join(parts), "A and B")
        raise AdapterValueError(f"{have} without {lack}")
    ranknum, alpha = parts.pop("ranknum", None), parts.pop("alpha", None)
    A, B = ledger.tensors[parts["A"]].shape, ledger.tensors[parts["B"]].shape
    if len(A) < 2 or len(B) < 2 or 0 in A + B:
        raise AdapterValueError(f"A {A} and B {B} are no matrices: shards of DeepSpeed ZeRO-3 or FSDP, not gathered")
    if "E" in parts and config.peft_type != "LORA":
        scaling = _adalora_scaling(ledger, config, ranknum)
        factorize: Factorization = DiagonalPair()
    else:
        factorize, rank = _factorization(config, path, A, B, diagonal="E" in parts)
        scaling = config.scaling(path, rank) if alpha is None else ledger.number(alpha) / rank
    weight_shape = (B[0], *A[1:]) if len(A) > 2 else None
    layout = Layout(weight_shape, stored_transposed=weight_shape is None and (embedding or config.fan_in_fan_out))
    also = [tensor for tensor in (ranknum, alpha) if tensor is not None]
    trained = frozenset("A") if config.initialization == "mica" else None
    ledger.add(module, parts, factorize, scaling, layout=layout, trained=trained, also=also)


def _factorization(
    config: PeftConfig, path: str, A: tuple[int, ...], B: tuple[int, ...], *, diagonal: bool
) -> tuple[Factorization, int]:
    """The factorization of a pair, and the rank that scales it."""
    if config.values.get("use_qalora"):
        return PooledPair(max(1, int(number_or_none(config.values, "qalora_group_size") or 16))), A[0]
    blocks = config.values.get("use_bdlora")
    if isinstance(blocks, Mapping):
        return _block_diagonal(blocks, path), A[0]
    if config.enable_lora and A[0] == B[1] * sum(config.enable_lora):
        return MergedLinear(config.enable_lora), B[1]
    if A[0] == B[1]:
        return (DiagonalPair() if diagonal else Pair()), A[0]
    if A[0] % B[1] == 0 and len(A) > 2:
        return BlockDiagonalPair(b_blocks=A[0] // B[1]), A[0]
    raise AdapterValueError(
        f"A {A} and B {B} do not multiply; a merged projection needs enable_lora in its config to be put together"
    )


def _block_diagonal(blocks: Mapping[str, object], path: str) -> BlockDiagonalPair:
    count = blocks.get("nblocks")
    if not isinstance(count, int) or count < 1:
        raise AdapterValueError(f"use_bdlora has nblocks {count!r}")

    def targeted(name: str) -> bool:
        patterns = blocks.get(name)
        return isinstance(patterns, list) and any(str(pattern) in path for pattern in patterns)

    if targeted("target_modules_bd_a"):
        return BlockDiagonalPair(a_blocks=count)
    return BlockDiagonalPair(b_blocks=count if targeted("target_modules_bd_b") else 1)


def _adalora_scaling(ledger: Ledger, config: PeftConfig, ranknum: str | None) -> float:
    # AdaLoRA divides by the rank that training began with, also where it pruned since: PEFT never changes ranknum.
    rank = ledger.number(ranknum) if ranknum is not None else config.initial_rank
    if rank is None:
        raise AdapterValueError("AdaLoRA's scale needs init_r, the rank it began with: adapter_config.json is missing")
    alpha = config.alpha if config.alpha is not None and config.alpha > 0 else rank
    return alpha / (rank + 1e-5)
