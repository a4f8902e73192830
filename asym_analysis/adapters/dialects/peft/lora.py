"""LoRA with its variants, AdaLoRA, and LyCORIS's two products as PEFT names them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from asym_analysis.adapters.config_files import number_or_none
from asym_analysis.adapters.dialects.lycoris import add_hadamard, add_kronecker
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.dialects.peft.module import PeftModule
from asym_analysis.adapters.factorizations.blocks import BlockDiagonalPair, MergedLinear
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.factorizations.pairs import DiagonalPair, InnerPair, Pair, PooledPair
from asym_analysis.adapters.factorizations.with_base import SincePretrained
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.errors import AdapterValueError

__all__ = ["add_loha", "add_lokr", "add_lora"]


def add_lora(module: PeftModule) -> None:
    """Add a pair: LoRA, DoRA, LoRA-XS, KaSA, QA-LoRA, block-diagonal LoRA, AdaLoRA.

    Raises
    ------
    AdapterValueError
        If a factor is missing, or the two do not multiply.
    """
    parts = dict(module.parts)
    ledger, config = module.ledger, module.config
    embedding = "embedding_A" in parts or "embedding_B" in parts
    if embedding:
        parts = {part.removeprefix("embedding_"): tensor for part, tensor in parts.items()}
    if "A" not in parts or "B" not in parts:
        have, lack = ("A", "B") if "A" in parts else ("B", "A") if "B" in parts else (", ".join(parts), "A and B")
        raise AdapterValueError(f"{have} without {lack}")
    ranknum, alpha = parts.pop("ranknum", None), parts.pop("alpha", None)
    A, B = ledger.tensors[parts["A"]].shape, ledger.tensors[parts["B"]].shape
    if "E" in parts and config.peft_type != "LORA" and len(A) == len(B) == 2 and A[0] == B[1] == 0:
        pruned = [*parts.values(), *(tensor for tensor in (ranknum, alpha) if tensor is not None)]
        ledger.ignore(pruned, "AdaLoRA pruned this module to rank 0: its update is zero")
        return
    if len(A) < 2 or len(B) < 2 or 0 in A + B:
        raise AdapterValueError(f"A {A} and B {B} are not matrices: shards of DeepSpeed ZeRO-3 or FSDP, not gathered")
    frozen: tuple[str, ...] = ()
    if "R" in parts:
        scaling, frozen = config.scaling(module.path, A[0]), ("A", "B")
        factorize: Factorization = InnerPair()
    elif "E" in parts and config.peft_type != "LORA":
        scaling = _adalora_scaling(module, ranknum)
        factorize = DiagonalPair()
    else:
        factorize, rank = _factorization(config, module.path, A, B, diagonal="E" in parts)
        scaling = (
            config.scaling(module.path, rank)
            if alpha is None or ledger.alpha is not None
            else ledger.number(alpha) / rank
        )
    weight_shape = (B[0], *A[1:]) if len(A) > 2 else None
    if isinstance(factorize, DiagonalPair):
        weight_shape = _weight_shape(module, weight_shape)
    if ".base_layer." in parts["A"]:
        _say_doubled(module)
    layout = Layout(weight_shape, stored_transposed=weight_shape is None and (embedding or config.fan_in_fan_out))
    also = [tensor for tensor in (ranknum, alpha) if tensor is not None]
    trained = frozenset("A") if config.initialization == "mica" else None
    more = {}
    if module.model.taken is not None and weight_shape is None and not embedding and "magnitude" not in parts:
        more["W0"] = module.base_weight("the initialization took a part of the base weight out of it")
        factorize = SincePretrained(factorize, module.model.taken, scaling)
    module.add(parts, factorize, scaling, layout=layout, trained=trained, also=also, more=more, frozen=frozen)


def add_loha(module: PeftModule) -> None:
    """Add a LoHa update."""

    def scaling(rank: int) -> float:
        return module.config.scaling(module.path, rank)

    add_hadamard(module.ledger, module.name, module.parts, scaling, weight_shape=partial(_weight_shape, module))


def add_lokr(module: PeftModule) -> None:
    """Add a LoKr update, which is scaled by the config's rank where both matrices are whole."""

    def scaling(rank: int | None) -> float:
        return module.config.scaling(module.path, rank or module.config.rank_of(module.path) or 1)

    add_kronecker(module.ledger, module.name, module.parts, scaling, weight_shape=partial(_weight_shape, module))


def _weight_shape(module: PeftModule, shown: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The base weight's shape where it is no matrix: the base model's, or what the tensors show."""
    if module.base_shape is not None and len(module.base_shape) > 2:
        return module.base_shape
    if shown is not None and len(shown) == 4 and shown[2] > shown[3] == 1:
        kernel = f"that of one-dimensional convolutions where a kernel is written as (k, 1), as in {module.name}"
        module.ledger.assume("layout", kernel, "give base=, the base model")
        return shown[:3]
    if shown is None and "conv" in projection_of(module.name).lower():
        flat = f"(outputs, inputs x kernel): the kernel of a convolution is not recorded, as in {module.name}"
        module.ledger.assume("layout", flat, "give base=, the base model")
    return shown


def _say_doubled(module: PeftModule) -> None:
    module.ledger.assume(
        "scale of out_proj in attention",
        "that of one update, though PEFT adds it twice to the weight when the layer runs or is merged",
        "for the merged model double it",
    )


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


def _adalora_scaling(module: PeftModule, ranknum: str | None) -> float:
    # AdaLoRA divides by the rank that training began with, also where it pruned since: PEFT never changes ranknum.
    config = module.config
    rank = module.ledger.number(ranknum) if ranknum is not None else config.initial_rank
    if rank is None:
        raise AdapterValueError("AdaLoRA's scale needs its initial rank, init_r: adapter_config.json is missing")
    alpha = config.alpha if config.alpha is not None and config.alpha > 0 else rank
    return alpha / (rank + 1e-5)
