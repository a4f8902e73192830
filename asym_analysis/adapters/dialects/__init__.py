"""Key grammars: how each training library names, shapes and scales its factors."""

from __future__ import annotations

from asym_analysis.adapters.checkpoint import Checkpoint, Dialect, Reading
from asym_analysis.adapters.dialects.down_up import DIFFUSERS, KOHYA
from asym_analysis.adapters.dialects.grammar import Grammar, PatternDialect
from asym_analysis.adapters.dialects.libraries import (
    CLIP_LORA,
    CLONEOFSIMO,
    CLONEOFSIMO_LIST,
    GGUF,
    MLX,
    MLX_VLM,
    NEMO,
    SAM_LORA,
    TORCHTUNE,
)
from asym_analysis.adapters.dialects.lit_gpt import LIT_GPT
from asym_analysis.adapters.dialects.loralib import LORALIB
from asym_analysis.adapters.dialects.lorasym import LorasymDialect
from asym_analysis.adapters.dialects.not_lora import NotLoraDialect
from asym_analysis.adapters.dialects.peft import PeftDialect
from asym_analysis.errors import AdapterError

__all__ = ["DIALECTS", "Grammar", "PatternDialect", "PeftDialect", "read_checkpoint"]

#: Every dialect, in the order in which it is asked whether it recognizes a checkpoint: special grammars first.
DIALECTS: tuple[Dialect, ...] = (
    LorasymDialect(),
    GGUF,
    NEMO,
    TORCHTUNE,
    KOHYA,
    DIFFUSERS,
    PeftDialect(),
    MLX_VLM,
    MLX,
    LIT_GPT,
    CLIP_LORA,
    SAM_LORA,
    LORALIB,
    CLONEOFSIMO,
    CLONEOFSIMO_LIST,
    NotLoraDialect(),
)


def read_checkpoint(checkpoint: Checkpoint, dialect: str | Dialect = "auto") -> tuple[str, Reading]:
    """Turn named tensors into adapted modules.

    Parameters
    ----------
    checkpoint
        What a container holds.
    dialect
        The name of a key grammar, ``"auto"`` for the first that recognizes the checkpoint, or a grammar of your own.

    Returns
    -------
    name, reading
        The dialect's name, and the modules with the account of every tensor. No tensor is read but those that hold
        a single number, such as an alpha.

    Raises
    ------
    NotAnAdapterError
        If the checkpoint holds something other than low-rank updates; the message names it.
    AdapterError
        If no dialect knows it, or no pair can be formed.
    """
    chosen = _choose(checkpoint, dialect)
    return chosen.name, chosen.read(checkpoint)


def _choose(checkpoint: Checkpoint, dialect: str | Dialect) -> Dialect:
    if not isinstance(dialect, str):
        return dialect
    if not checkpoint.tensors:
        raise AdapterError(f"{checkpoint.source} holds no tensor: the adapter was saved empty, so save it again")
    if dialect == "auto":
        known = next((candidate for candidate in DIALECTS if candidate.recognizes(checkpoint)), None)
        if known is None:
            names = ", ".join(list(checkpoint.tensors)[:3]) or "no tensor"
            raise AdapterError(
                f"{checkpoint.source}: no low-rank pair is named as a known library names it (found {names}); "
                "describe the names with dialect=PatternDialect(A='(.+)[.]down', B='(.+)[.]up')"
            )
        return known
    by_name = {candidate.name: candidate for candidate in DIALECTS}
    if dialect not in by_name:
        raise AdapterError(f"unknown dialect {dialect!r}: choose auto, {', '.join(by_name)}, or give a PatternDialect")
    return by_name[dialect]
